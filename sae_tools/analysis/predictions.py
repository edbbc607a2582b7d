"""What a model predicts when the activations at a site are replaced: by an SAE's output, by zeros, by their mean.

Every mean is over text tokens. What follows one may be a special token, as in SAELens' `run_evals`, but not padding.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.metrics import predictions
from sae_tools.metrics.averages import Means
from sae_tools.models.lm import LanguageModel, Patch, shown_pieces
from sae_tools.models.replay import Replay
from sae_tools.models.sites import Site

WORST = 20
"""Tokens kept at which the SAE's output changes the prediction most."""
AROUND = (24, 8)
"""Tokens shown before and after such a one."""
MEAN_TOKENS = 4096
"""Tokens over which the mean activation is taken."""


@torch.no_grad()
def mean_activation(lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Tensor:
    """(d_in,) mean at `site` over the text tokens of the first blocks of (n_blocks, context) ids.

    They are so few that each of several processes reads them all.
    """
    total, n = torch.zeros(lm.width(site), dtype=torch.float64, device=lm.device), 0
    for batch in torch.split(ids[: max(1, MEAN_TOKENS // ids.shape[1])].long(), batch_size):
        acts = lm.activations(batch, [site])[site.name][lm.is_text(batch).to(lm.device)]
        total, n = total + acts.double().sum(dim=0), n + len(acts)
    return (total / max(n, 1)).float()


def _largest(found: list[tuple[float, dict[str, Any]]]) -> list[tuple[float, dict[str, Any]]]:
    return sorted(found, key=lambda pair: -pair[0])[:WORST]


class Predictions:
    """Running averages of a site's replacements, batch by batch. `pool` as in `metrics.averages`."""

    def __init__(self, lm: LanguageModel, site: Site, mean: Tensor) -> None:
        self.lm, self.site = lm, site
        self.means = Means()
        self._constants = {"ablation": torch.zeros_like(mean), "mean_ablation": mean}
        self._shared: dict[str, Tensor] = {}
        self._by_position: Tensor | None = None
        self._worst: list[tuple[float, dict[str, Any]]] = []
        self._n_blocks = 0

    def add(self, replay: Replay, text: Tensor, output: Tensor) -> None:
        """Take a pass over (batch, context) ids, the mask of their text, the SAE's output (batch, context, d_in)."""
        with_sae = replay.logits_with(Patch(self.site, lambda _: output))
        others = {"sae": with_sae} | {name: self._with_constant(replay, name) for name in self._constants}
        clean, found = predictions.losses(replay.ids, replay.logits, others)
        has_next = text[:, :-1] & self._is_no_padding(replay.ids[:, 1:])
        self.means.add({"ce_loss_without_sae": clean[has_next]})
        for name, (crossed, divergence) in found.items():
            self.means.add({f"ce_loss_with_{name}": crossed[has_next], f"kl_div_with_{name}": divergence[text]})
        same = predictions.top_agreement(replay.logits, with_sae)
        self.means.add({name: values[text] for name, values in same.items()})
        crossed, divergence = found["sae"]
        self._count_positions(clean, crossed, divergence, text, has_next)
        self._keep_worst(replay, with_sae, clean, crossed, divergence.masked_fill(~text, 0))
        self._n_blocks += len(text)

    def _with_constant(self, replay: Replay, name: str) -> Tensor:
        """Logits with one row at every position; where it is all that later blocks are given, those of one block do."""
        constant = self._constants[name]
        patch = Patch(self.site, lambda acts: constant.to(acts.dtype).expand_as(acts), everywhere=True)
        if not self.site.is_stream:
            return replay.logits_with(patch)
        if name not in self._shared:
            self._shared[name] = self.lm.logits(replay.ids[:1], patch)
        return self._shared[name]

    def _is_no_padding(self, ids: Tensor) -> Tensor:
        pad, end = self.lm.tokenizer.pad_token_id, self.lm.tokenizer.eos_token_id
        return torch.ones_like(ids, dtype=torch.bool) if pad is None or pad == end else ids != pad

    def _count_positions(
        self, clean: Tensor, crossed: Tensor, divergence: Tensor, text: Tensor, has_next: Tensor
    ) -> None:
        sums = torch.zeros(5, text.shape[1], dtype=torch.float64, device=text.device)
        sums[0], sums[1] = text.sum(0), (divergence.double() * text).sum(0)
        for i, values in enumerate((torch.ones_like(clean), clean, crossed), 2):
            sums[i, :-1] = (values.double() * has_next).sum(0)
        self._by_position = sums if self._by_position is None else self._by_position + sums

    def _keep_worst(self, replay: Replay, with_sae: Tensor, clean: Tensor, crossed: Tensor, divergence: Tensor) -> None:
        """Of the text so far the tokens of largest KL, each with the text around it: never more than `WORST`."""
        size = divergence.shape[1]
        values, places = divergence[:, :-1].flatten().topk(min(WORST, divergence[:, :-1].numel()))
        least = self._worst[-1][0] if len(self._worst) == WORST else 0.0
        for value, place in zip(values.tolist(), places.tolist(), strict=True):
            if value <= least:
                break
            block, position = divmod(place, size - 1)
            row = replay.ids[block].tolist()
            before, after = row[max(0, position - AROUND[0]) : position], row[position + 1 :][: AROUND[1]]
            expected = [int(logits[block, position].argmax()) for logits in (replay.logits, with_sae)]
            parts = (before, [row[position]], after, *([one] for one in expected))
            texts = ("".join(shown_pieces(self.lm.tokenizer, part)) for part in parts)
            names = ("before", "token", "after", "likeliest_without_sae", "likeliest_with_sae")
            self._worst.append((value, {
                "block": self._n_blocks + block, "position": position, "kl_div_with_sae": value,
                "ce_loss_without_sae": clean[block, position].item(),
                "ce_loss_with_sae": crossed[block, position].item(),
                **dict(zip(names, texts, strict=True)),
            }))  # fmt: skip
        self._worst = _largest(self._worst)

    def pool(self) -> None:
        self.means.pool()
        self._by_position = distributed.cat([] if self._by_position is None else [self._by_position[None]]).sum(dim=0)
        every: list[tuple[float, dict[str, Any]]] = []
        n_blocks = 0
        for worst, n in distributed.each([self._worst, self._n_blocks]):
            every += [(value, row | {"block": n_blocks + row["block"]}) for value, row in worst]
            n_blocks += n
        self._worst, self._n_blocks = _largest(every), n_blocks

    def summary(self) -> dict[str, float]:
        """Losses, KL and agreement by SAELens' names where it has one, and the share of an ablation's loss regained."""
        means = self.means.mean()
        found = dict(means)
        for suffix, name in (("", "ablation"), ("_over_mean_ablation", "mean_ablation")):
            crossed = (means["ce_loss_without_sae"], means["ce_loss_with_sae"], means[f"ce_loss_with_{name}"])
            found[f"ce_loss_score{suffix}"] = predictions.ce_loss_score(*crossed)
            kl = means[f"kl_div_with_{name}"]
            found[f"kl_div_score{suffix}"] = predictions.kl_div_score(means["kl_div_with_sae"], kl)
        return found

    def positions(self) -> pd.DataFrame:
        """Index position in the block, from 1 on; means over the text tokens there."""
        assert self._by_position is not None
        n, divergence, n_next, clean, crossed = self._by_position.cpu()
        table = pd.DataFrame({
            "tokens": n.long().numpy(), "kl_div_with_sae": (divergence / n).numpy(),
            "ce_loss_without_sae": (clean / n_next).numpy(), "ce_loss_with_sae": (crossed / n_next).numpy(),
        }).rename_axis("position")  # fmt: skip
        return table[n_next.numpy() > 0]  # the last token of a block has no next one

    def worst(self) -> pd.DataFrame:
        """The tokens after which the SAE's output changes the prediction most, the worst first."""
        return pd.DataFrame([row for _, row in self._worst])
