"""SAE x language model x held-out tokens -> metrics: how well it reconstructs, how sparse it is, what the model loses.

Every mean is over text tokens. Special tokens keep their own activations when the SAE is spliced in, and lose them too
when the site is zero-ablated: SAELens' `run_evals` with `exclude_special_tokens`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools import metrics
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import Site
from sae_tools.saes import SAE


@dataclass
class Evaluation:
    metrics: dict[str, float]
    density: Tensor
    """(d_sae,) share of tokens on which each feature fires."""


class _Means:
    """Running means by name, each over its own number of values."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: dict[str, Tensor]) -> None:
        for name, tensor in values.items():
            self.sums[name] += tensor.double().sum().item()
            self.counts[name] += tensor.numel()

    def value(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


@torch.no_grad()
def evaluate(
    sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int, what: str = "evaluate"
) -> Evaluation:
    """Metrics of `sae` at `site` on (n_blocks, context) ids, by SAELens' names; losses and KL in nats a token."""
    means, moments = _Means(), metrics.Moments()
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
    with tqdm(total=ids.numel(), desc=what, unit="tok", unit_scale=True) as bar:
        for batch in torch.split(ids.long(), batch_size):
            batch = batch.to(lm.device)
            text = lm.is_text(batch)
            clean, acts = _logits_and_acts(lm, site, batch)
            features = sae.encode(acts)
            output = sae.decode(features)
            x, x_hat, f = acts[text].float(), output[text].float(), features[text]
            moments.add(x, x_hat)
            fired += (f != 0).sum(dim=0).cpu()
            means.add(metrics.per_token(x, x_hat, f))
            means.add(_losses(lm, site, batch, text, clean, output))
            bar.update(batch.numel())
    return Evaluation(_summary(means.value(), moments, fired), fired / moments.n)


def _summary(means: dict[str, float], moments: metrics.Moments, fired: Tensor) -> dict[str, float]:
    clean, spliced, ablated = (means[f"ce_loss_{name}"] for name in ("without_sae", "with_sae", "with_ablation"))
    return means | {
        "explained_variance": moments.explained_variance(),
        "mse": moments.mse(),
        "relative_reconstruction_bias": moments.relative_reconstruction_bias(),
        "ce_loss_score": metrics.ce_loss_score(clean, spliced, ablated),
        "kl_div_score": metrics.kl_div_score(means["kl_div_with_sae"], means["kl_div_with_ablation"]),
        "dead_share": (fired == 0).double().mean().item(),
        "n_tokens": moments.n,
    }


def _losses(
    lm: LanguageModel, site: Site, ids: Tensor, text: Tensor, clean: Tensor, output: Tensor
) -> dict[str, Tensor]:
    """Cross-entropy and KL at each text token: of the model as it is, with the SAE's output, and with zeros."""
    patches = {
        "sae": Patch(site, lambda acts: output.to(acts.dtype)),
        "ablation": Patch(site, torch.zeros_like, everywhere=True),
    }
    losses = {"ce_loss_without_sae": metrics.cross_entropy(clean, ids)[text[:, :-1]]}
    for name, patch in patches.items():
        logits = lm.logits(ids, patch)
        losses[f"ce_loss_with_{name}"] = metrics.cross_entropy(logits, ids)[text[:, :-1]]
        losses[f"kl_div_with_{name}"] = metrics.kl_divergence(clean, logits)[text]
    return losses


def _logits_and_acts(lm: LanguageModel, site: Site, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The clean logits, and the activations at `site` that led to them."""
    seen: list[Tensor] = []

    def look(acts: Tensor) -> Tensor:
        seen.append(acts)
        return acts

    return lm.logits(ids, Patch(site, look)), seen[0]
