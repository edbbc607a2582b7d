"""SAE x language model x held-out tokens -> metrics: how well it reconstructs, how sparse it is, what the model loses.

Every mean is over text tokens. Special tokens keep their own activations when the SAE is spliced in, and lose them too
when the site is ablated: SAELens' `run_evals` with `exclude_special_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.latents import describe_weights
from sae_tools.analysis.predictions import Predictions, mean_activation
from sae_tools.common import distributed
from sae_tools.common.errors import InputError
from sae_tools.metrics import reconstruction
from sae_tools.metrics.averages import Histogram, Means
from sae_tools.models.lm import LanguageModel
from sae_tools.models.replay import Replay
from sae_tools.models.sites import Site
from sae_tools.saes import SAE, decode_sparse

DUPLICATE = 0.9
"""Cosine of two decoder directions from which one is a double of the other."""
QUANTILES = (0.05, 0.5, 0.95)


@dataclass
class Evaluation:
    metrics: dict[str, float]
    latents: pd.DataFrame
    """Index feature; feature_density, consistent_activation_heuristic (mean firings in a block where it fires)."""
    positions: pd.DataFrame
    """Index position; means over the tokens there."""
    worst: pd.DataFrame
    """The tokens after which the SAE changes the prediction most."""
    histograms: dict[str, Histogram]
    """Of the tokens' L0 and cosine."""

    def tables(self) -> dict[str, pd.DataFrame]:
        """Everything but the figures, by name; `density` is the histogram of the latents' log10 densities."""
        counts, edges = np.histogram(np.log10(self.latents["feature_density"] + 1e-6), bins=48, range=(-6, 0))
        density = pd.DataFrame({"features": counts}, index=pd.Index(edges[:-1].round(4), name="log10_density"))
        histograms = {name: histogram.table() for name, histogram in self.histograms.items()}
        tables = {"latents": self.latents, "positions": self.positions, "worst": self.worst, "density": density}
        return tables | histograms


@dataclass(frozen=True)
class Seen:
    """What an SAE made of a batch."""

    text: Tensor
    """(batch, context) mask of the text tokens"""
    acts: Tensor
    """(tokens, d_in) of those"""
    features: Tensor
    """(tokens, d_sae) of those"""

    def at(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Activations and features where another mask, too, has text."""
        if torch.equal(text, self.text):
            return self.acts, self.features
        kept = text[self.text]
        return self.acts[kept], self.features[kept]


class Evaluator:
    """Metrics of an SAE at a site of a model, batch by batch; `mean` (d_in,) is what mean ablation puts there."""

    def __init__(self, sae: SAE[Any], lm: LanguageModel, site: Site, mean: Tensor) -> None:
        self.sae, self.lm, self.site = sae, lm, site
        self._means, self._moments = Means(), reconstruction.Moments(len(mean))
        self._predictions = Predictions(lm, site, mean)
        self._fired = torch.zeros(2, sae.cfg.d_sae, dtype=torch.float64)
        self._histograms = {
            "l0": Histogram(0, sae.cfg.d_sae + 1, sae.cfg.d_sae + 1),
            "cossim": Histogram(-1, 1, 2000),
        }

    def add_all(self, ids: Tensor, batch_size: int) -> Evaluator:
        """Take this process's share of (n_blocks, context) ids, as `add`; returns itself."""
        batches = distributed.share(torch.split(ids, batch_size))
        with tqdm(
            total=sum(batch.numel() for batch in batches), desc="evaluate", unit="tok", unit_scale=True, leave=False,
            disable=distributed.rank() > 0,
        ) as bar:  # fmt: skip
            for batch in batches:
                self.add(batch)
                bar.update(batch.numel())
        return self

    @torch.no_grad()
    def add(self, ids: Tensor, usual: Tensor | None = None) -> Seen:
        """Take (batch, context) ids; where the mask `usual` is false, tokens count as special ones do.

        Raises:
            InputError: an activation is not finite.
        """
        ids = ids.long().to(self.lm.device)
        text = self.lm.is_text(ids)
        if usual is not None:
            text = text & usual.to(text.device)
        replay = Replay(self.lm, self.site, ids)
        x = replay.acts[text]
        if not bool(torch.isfinite(x).all()):
            raise InputError(
                f"the activations of {self.lm.name!r} at {self.site.name} are not finite in {x.dtype}; "
                "use a wider language_model.dtype."
            )
        features = self.sae.encode(x)
        fired = features.to_sparse()
        x_hat = decode_sparse(self.sae, fired)
        output = replay.acts.masked_scatter(text[..., None], x_hat.to(x.dtype))
        x, x_hat = x.float(), x_hat.float()
        self._moments.add(x, x_hat)
        self._count(fired.indices(), text)
        per_token = reconstruction.per_token(x, x_hat, fired)
        for name, histogram in self._histograms.items():
            histogram.add(per_token[name])
        self._means.add(per_token)
        self._means.add({"explained_variance_legacy": reconstruction.explained_variance_legacy(x, x_hat)})
        self._predictions.add(replay, text, output)
        return Seen(text, x, features.float())

    def _count(self, fired: Tensor, text: Tensor) -> None:
        """On how many tokens, and in how many blocks, each feature fires: (2, n) text tokens and features."""
        n_blocks, d_sae = len(text), self.sae.cfg.d_sae
        places = text.nonzero()[:, 0][fired[0]] * d_sae + fired[1]
        in_blocks = torch.bincount(places, minlength=n_blocks * d_sae).view(n_blocks, d_sae)
        self._fired += torch.stack([in_blocks.sum(dim=0), (in_blocks > 0).sum(dim=0)]).cpu()

    def result(self) -> Evaluation:
        """Of all that was added, in every process: each calls this, once."""
        self._means.pool()
        self._moments.pool()
        self._predictions.pool()
        for histogram in self._histograms.values():
            histogram.pool()
        distributed.sum_(self._fired)
        fired, blocks = self._fired
        latents = pd.DataFrame({
            "feature_density": (fired / self._moments.n).numpy(),
            "consistent_activation_heuristic": (fired / blocks.clamp(min=1)).numpy(),
        }).rename_axis("feature")  # fmt: skip
        return Evaluation(
            self._summary(fired / self._moments.n), latents, self._predictions.positions(), self._predictions.worst(),
            self._histograms,
        )  # fmt: skip

    def _summary(self, density: Tensor) -> dict[str, float]:
        moments, r2 = self._moments, self._moments.r2_per_dimension()
        percentiles = {
            f"{name}_p{round(100 * share):02}": histogram.percentile(share)
            for name, histogram in self._histograms.items()
            for share in QUANTILES
        }
        percentiles |= {f"r2_dimension_p{round(100 * share):02}": r2.quantile(share).item() for share in QUANTILES}
        return self._means.mean() | self._predictions.summary() | percentiles | {
            "explained_variance": moments.explained_variance(),
            "fvu": 1 - moments.explained_variance(),
            "mse": moments.mse(),
            "relative_reconstruction_bias": moments.relative_reconstruction_bias(),
            "dead_share": (density == 0).double().mean().item(),
            "freq_over_1_percent": (density > 0.01).double().mean().item(),
            "freq_over_10_percent": (density > 0.1).double().mean().item(),
            "n_tokens": moments.n,
        }  # fmt: skip


def evaluate(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Evaluation:
    """Metrics of `sae` at `site` on (n_blocks, context) ids, by SAELens' names; losses and KL in nats a token.

    Several processes share the batches, and each ends with the whole result.

    Raises:
        InputError: an activation is not finite.
    """
    mean = mean_activation(lm, site, ids, batch_size)
    result = Evaluator(sae, lm, site, mean).add_all(ids, batch_size).result()
    result.latents = result.latents.join(describe_weights(sae))
    result.metrics |= dictionary_summary(result.latents)
    return result


def dictionary_summary(latents: pd.DataFrame) -> dict[str, float]:
    """Of the live latents: doubles (decoder cosine with another one above 0.9), how tied, how many come back best."""
    live = latents[latents["feature_density"] > 0]
    if not len(live):
        return {"duplicate_share": 0.0, "encoder_decoder_cosine_sim": 0.0, "round_trip_share": 0.0}
    return {
        "duplicate_share": float((live["max_decoder_cosine_sim"] > DUPLICATE).mean()),
        "encoder_decoder_cosine_sim": float(live["encoder_decoder_cosine_sim"].mean()),
        "round_trip_share": float((live["round_trip_max"] > 1 - 1e-6).mean()),
    }
