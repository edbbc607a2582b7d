"""SAE x language model x held-out tokens -> metrics: how well it reconstructs, how sparse it is, what the model loses.

Every mean is over text tokens. Special tokens keep their own activations when the SAE is spliced in, and lose them too
when the site is zero-ablated: SAELens' `run_evals` with `exclude_special_tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools import metrics
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.replay import Replay
from sae_tools.models.sites import Site
from sae_tools.saes import SAE


@dataclass
class Evaluation:
    metrics: dict[str, float]
    density: Tensor
    """(d_sae,) share of tokens on which each feature fires."""


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
    """Metrics of an SAE at a site of a model, batch by batch."""

    def __init__(self, sae: SAE[Any], lm: LanguageModel, site: Site) -> None:
        self.sae, self.lm, self.site = sae, lm, site
        self._means, self._moments = metrics.Means(), metrics.Moments()
        self._fired = torch.zeros(sae.cfg.d_sae, dtype=torch.float64)
        self._ablated: Tensor | None = None

    @torch.no_grad()
    def add(self, ids: Tensor) -> Seen:
        """Take (batch, context) ids."""
        ids = ids.long().to(self.lm.device)
        text = self.lm.is_text(ids)
        replay = Replay(self.lm, self.site, ids)
        x = replay.acts[text]
        features = self.sae.encode(x)
        x_hat = self.sae.decode(features)
        output = replay.acts.masked_scatter(text[..., None], x_hat.to(x.dtype))
        x, features = x.float(), features.float()
        self._moments.add(x, x_hat.float())
        self._fired += (features != 0).float().sum(dim=0).cpu()
        self._means.add(metrics.per_token(x, x_hat.float(), features))
        self._means.add(self._losses(replay, text, output))
        return Seen(text, x, features)

    def _losses(self, replay: Replay, text: Tensor, output: Tensor) -> dict[str, Tensor]:
        """Cross-entropy and KL at each text token: of the model as it is, with the SAE's output, and with zeros."""
        others = {"sae": replay.logits_with(Patch(self.site, lambda _: output)), "ablation": self._with_zeros(replay)}
        clean, found = metrics.losses(replay.ids, replay.logits, others)
        losses = {"ce_loss_without_sae": clean[text[:, :-1]]}
        for name, (crossed, divergence) in found.items():
            losses[f"ce_loss_with_{name}"] = crossed[text[:, :-1]]
            losses[f"kl_div_with_{name}"] = divergence[text]
        return losses

    def _with_zeros(self, replay: Replay) -> Tensor:
        """Zero-ablated logits; where zeros are all that later blocks are given, those of one block stand for all."""
        zeros = Patch(self.site, torch.zeros_like, everywhere=True)
        if not self.site.is_stream:
            return replay.logits_with(zeros)
        if self._ablated is None:
            self._ablated = self.lm.logits(replay.ids[:1], zeros)
        return self._ablated

    def result(self) -> Evaluation:
        return Evaluation(_summary(self._means.mean(), self._moments, self._fired), self._fired / self._moments.n)


def evaluate(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Evaluation:
    """Metrics of `sae` at `site` on (n_blocks, context) ids, by SAELens' names; losses and KL in nats a token."""
    evaluator = Evaluator(sae, lm, site)
    with tqdm(total=ids.numel(), desc="evaluate", unit="tok", unit_scale=True) as bar:
        for batch in torch.split(ids, batch_size):
            evaluator.add(batch)
            bar.update(batch.numel())
    return evaluator.result()


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
