"""What finetuning added and removed: a crosscoder's latents measured on equal tokens in both models.

norms      is a latent in one model only? relative norm, class, cosine of its two directions
scaling    is it really so, or an artifact? Latent Scaling
firings    how often it fires, and on what
halves     how much of each model the crosscoder and its two halves explain
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.examples import pick_examples
from sae_tools.analysis.features import automatic_labels
from sae_tools.analysis.firings import Firings, in_order
from sae_tools.common.settings import Features
from sae_tools.metrics import crosscoder as metrics
from sae_tools.metrics.reconstruction import Moments
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

MODELS = ("base", "finetuned")


@dataclass(frozen=True)
class Parts:
    """A crosscoder for unscaled rows [base ; finetuned], its half of each model, and the scales of its training."""

    joint: SAE[Any]
    halves: tuple[SAE[Any], SAE[Any]]
    scales: tuple[float, float]

    def decoders(self) -> tuple[Tensor, Tensor]:
        """(d_sae, d) of base and finetuned model, in units in which activations of both are of one size."""
        base, finetuned = self.joint.W_dec.chunk(2, dim=1)
        return self.scales[0] * base, self.scales[1] * finetuned


@dataclass(frozen=True)
class Difference:
    figures: dict[str, Any]
    latents: pd.DataFrame
    """Index latent; relative_norm, class, decoder_cosine, density, maximum, nu_eps, nu_r, passes_scaling,
    genuine, label."""
    examples: pd.DataFrame
    """Of the latents nearest to one model alone: columns feature and those of `store.Example`."""


@dataclass
class _Seen:
    """What is summed up and kept while the models read."""

    scaling: metrics.LatentScaling
    explained: dict[str, Moments]
    half_firings: list[int] = field(default_factory=lambda: [0, 0])
    tokens: list[Tensor] = field(default_factory=list)
    features: list[Tensor] = field(default_factory=list)
    values: list[Tensor] = field(default_factory=list)
    n_tokens: int = 0


def difference(
    parts: Parts,
    models: tuple[LanguageModel, LanguageModel],
    site: Site,
    ids: Tensor,
    batch_size: int,
    n_examples: int,
    shown: Features,
) -> Difference:
    """Measure a crosscoder on (n_blocks, context) ids that base and finetuned model read.

    Examples, as many and as long as `shown` says, are of the `n_examples` live latents with the least relative norm and
    of as many with the largest.
    """
    seen = _read(parts, models, site, ids, batch_size)
    tokens, features, values = (torch.cat(found) for found in (seen.tokens, seen.features, seen.values))
    firings = in_order(tokens, features, values, parts.joint.cfg.d_sae, seen.n_tokens)
    latents = _table(parts, seen, firings).assign(label=automatic_labels(firings, ids, models[0]))
    chosen = most_exclusive(latents, n_examples)
    examples = pick_examples(_only(firings, chosen), ids.flatten().numpy(), ids.shape[1], shown)
    return Difference(summarise(latents) | _explained(seen), latents, examples)


@torch.no_grad()
def _read(parts: Parts, models: tuple[LanguageModel, LanguageModel], site: Site, ids: Tensor, batch_size: int) -> _Seen:
    widths = zip(MODELS, (lm.width(site) for lm in models), strict=True)
    explained = {f"{who}_{model}": Moments(d) for model, d in widths for who in ("crosscoder", "half")}
    seen = _Seen(metrics.LatentScaling(*parts.decoders()), explained)
    with tqdm(total=ids.numel(), desc="difference", unit="tok", unit_scale=True) as bar:
        for i, batch in enumerate(torch.split(ids.long(), batch_size)):
            text = models[0].is_text(batch)
            where = text.flatten().nonzero().squeeze(-1) + i * batch_size * ids.shape[1]
            x = [lm.activations(batch, [site])[site.name][text.to(lm.device)].float() for lm in models]
            _take(parts, seen, (x[0], x[1].to(x[0].device)), where)
            bar.update(batch.numel())
    return seen


def _take(parts: Parts, seen: _Seen, x: tuple[Tensor, Tensor], where: Tensor) -> None:
    """Add (tokens, d) activations of both models, and what the crosscoder and its halves make of them."""
    f = parts.joint.encode(torch.cat(x, dim=1))
    x_hat = parts.joint.decode(f).chunk(2, dim=1)
    first, second = parts.scales
    seen.scaling.add(f, (first * x[0], second * x[1]), (first * x_hat[0], second * x_hat[1]))
    for i, model in enumerate(MODELS):
        own = parts.halves[i].encode(x[i])
        seen.half_firings[i] += int((own > 0).sum())
        seen.explained[f"crosscoder_{model}"].add(x[i], x_hat[i])
        seen.explained[f"half_{model}"].add(x[i], parts.halves[i].decode(own))
    row, latent = (f > 0).nonzero(as_tuple=True)
    seen.tokens.append(where[row.cpu()].int())
    seen.features.append(latent.cpu().int())
    seen.values.append(f[row, latent].cpu().float())
    seen.n_tokens += len(where)


def _table(parts: Parts, seen: _Seen, firings: Firings) -> pd.DataFrame:
    decoders = parts.decoders()
    relative = metrics.relative_norm(*decoders).cpu()
    nu = seen.scaling.nu()
    live = torch.from_numpy(firings.count > 0)
    columns = {
        "relative_norm": relative.double().numpy(),
        "class": np.array(metrics.CLASSES, object)[metrics.classify(relative).numpy()],
        "decoder_cosine": metrics.decoder_cosine(*decoders).cpu().double().numpy(),
        "density": firings.count / firings.n_tokens,
        "maximum": firings.maximum.astype(np.float64),
        **{name: values.numpy() for name, values in nu.items()},
        "passes_scaling": (metrics.passes_scaling(nu) & live).numpy(),
        "genuine": (metrics.genuine(relative, nu) & live).numpy(),
    }
    return pd.DataFrame(columns).rename_axis("latent")


def summarise(latents: pd.DataFrame) -> dict[str, Any]:
    """Live latents by class, those that are genuine, those that pass Latent Scaling by the model where they are longer,
    how the relative norms lie in 20 steps from 0 to 1, and how alike the directions of shared ones are.
    """
    live = latents[latents["density"] > 0]
    shared = live.loc[live["class"] == "shared", "decoder_cosine"]
    return {
        "d_sae": len(latents),
        "dead_share": 1 - len(live) / len(latents),
        "classes": {name: int((live["class"] == name).sum()) for name in metrics.CLASSES},
        "genuine": {
            name: int(live.loc[live["class"] == name, "genuine"].sum()) for name in ("base_only", "finetuned_only")
        },
        "passes_scaling": {
            "base": int(live.loc[live["relative_norm"] <= 0.5, "passes_scaling"].sum()),
            "finetuned": int(live.loc[live["relative_norm"] > 0.5, "passes_scaling"].sum()),
        },
        "relative_norms": np.histogram(live["relative_norm"], 20, (0, 1))[0].tolist(),
        "shared_cosine_median": float(shared.median()) if len(shared) else 0.0,
    }


def _explained(seen: _Seen) -> dict[str, Any]:
    n_tokens = seen.n_tokens
    return {
        "n_tokens": n_tokens,
        "l0": sum(map(len, seen.tokens)) / n_tokens,
        **{f"half_{model}_l0": n / n_tokens for model, n in zip(MODELS, seen.half_firings, strict=True)},
        **{f"{who}_explained_variance": sums.explained_variance() for who, sums in seen.explained.items()},
    }


def most_exclusive(latents: pd.DataFrame, n: int) -> np.ndarray:
    """The `n` live latents with the least relative norm and the `n` with the largest, ascending, each once."""
    order = latents[latents["density"] > 0].sort_values("relative_norm", kind="stable").index.to_numpy()
    return np.unique(np.concatenate([order[:n], order[len(order) - min(n, len(order)) :]]))


def _only(firings: Firings, chosen: np.ndarray) -> Firings:
    """The firings of some latents, ascending."""
    keep = np.isin(firings.feature, chosen)
    feature = torch.from_numpy(firings.feature[keep])
    token, value = torch.from_numpy(firings.token[keep]), torch.from_numpy(firings.value[keep])
    return in_order(token, feature, value, firings.d_sae, firings.n_tokens)
