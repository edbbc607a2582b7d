"""Two models' activations at a site on the same tokens: how alike they are token by token, and the outliers.

Special tokens, the first position among them, are looked at too, but stand apart: the means are over text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.common import distributed
from sae_tools.metrics.alignment import LinearCKA, is_outlier, norm_scale, similarity
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site

LISTED = 200
"""Outliers that are listed by token, those of largest norm."""
MEASURES = ("cosine", "distance", "norm_ratio", "norm_base", "norm_finetuned")


@dataclass(frozen=True)
class Alignment:
    values: dict[str, Tensor]
    """By measure, (n_blocks, context) each: cosine, distance, norm_ratio, norm_base, norm_finetuned."""
    text: Tensor
    """(n_blocks, context) tokens that are text to both models."""
    outliers: dict[str, Tensor]
    """base, finetuned: (n_blocks, context) masks, of all tokens."""
    means: dict[str, Tensor]
    """base, finetuned: (d,) mean activation over the text."""
    figures: dict[str, float]

    def by_position(self) -> pd.DataFrame:
        """Index position in the block: means over the blocks, special tokens too."""
        return self._reduced(0, "position")

    def by_sequence(self) -> pd.DataFrame:
        """Index block: means over its tokens, special ones too."""
        return self._reduced(1, "block")

    def _reduced(self, dim: int, name: str) -> pd.DataFrame:
        columns = {measure: self.values[measure].mean(dim=dim).numpy() for measure in MEASURES}
        return pd.DataFrame(columns).rename_axis(name)

    def tokens(self, bins: int = 100) -> pd.DataFrame:
        """Histograms over all text tokens: rows measure, from (the lower edge of a step), tokens."""
        parts = []
        farthest = float(self.values["distance"].max()) or 1.0
        for measure, low, high in (("cosine", -1.0, 1.0), ("distance", 0.0, farthest)):
            found = self.values[measure][self.text].clamp(low, high).numpy()
            counts, edges = np.histogram(found, bins, (low, high))
            parts.append(pd.DataFrame({"measure": measure, "from": edges[:-1], "tokens": counts}))
        return pd.concat(parts, ignore_index=True)

    def heat(self) -> pd.DataFrame:
        """Cosine by block (rows) and position (columns)."""
        return pd.DataFrame(self.values["cosine"].numpy(), columns=[str(i) for i in range(self.text.shape[1])])

    def listed(self, lm: LanguageModel, ids: Tensor) -> pd.DataFrame:
        """The outliers of largest norm in either model: block, position, token, is_text, norms, and whose they are."""
        either = self.outliers["base"] | self.outliers["finetuned"]
        largest = torch.maximum(self.values["norm_base"], self.values["norm_finetuned"]).masked_fill(~either, 0)
        n = min(LISTED, int(either.sum()))
        places = largest.flatten().topk(n).indices
        size = ids.shape[1]
        return pd.DataFrame({
            "block": (places // size).numpy(), "position": (places % size).numpy(),
            "token": [lm.tokenizer.decode([int(i)]) for i in ids.flatten()[places]],
            "is_text": self.text.flatten()[places].numpy(),
            **{f"norm_{which}": self.values[f"norm_{which}"].flatten()[places].numpy() for which in self.outliers},
            **{f"outlier_{which}": mask.flatten()[places].numpy() for which, mask in self.outliers.items()},
        })  # fmt: skip


@torch.no_grad()
def align(
    base: LanguageModel, finetuned: LanguageModel, site: Site, ids: Tensor, batch_size: int, limit: float | None = None
) -> Alignment:
    """Read (n_blocks, context) ids with both models, up to the site; several processes share the batches.

    `limit`: the norm above which an activation is an outlier; by default twice the base model's mean norm.
    """
    text = (base.is_text(ids) & finetuned.is_text(ids)).cpu()
    parts: list[dict[str, Tensor]] = []
    sums = {which: torch.zeros(base.width(site), dtype=torch.float64) for which in ("base", "finetuned")}
    cka = LinearCKA(base.width(site))
    batches = distributed.share(
        list(zip(torch.split(ids.long(), batch_size), torch.split(text, batch_size), strict=True))
    )
    for batch, kept in tqdm(batches, desc="activations", unit="batch", leave=False, disable=distributed.rank() > 0):
        x, y = (lm.activations(batch, [site])[site.name].float().cpu() for lm in (base, finetuned))
        parts.append(similarity(x, y) | {"norm_base": x.norm(dim=-1), "norm_finetuned": y.norm(dim=-1)})
        cka.add(x[kept], y[kept])
        for which, acts in (("base", x), ("finetuned", y)):
            sums[which] += acts[kept].double().sum(dim=0)
    cka.pool()
    for total in sums.values():
        distributed.sum_(total)
    values = distributed.columns(parts)
    n = max(int(text.sum()), 1)
    mean_norm = float(values["norm_base"][text].double().sum()) / n
    outliers = {which: is_outlier(values[f"norm_{which}"], mean_norm, limit) for which in sums}
    figures = _figures(values, text, outliers) | {
        "cka": cka.value(), "mean_norm": mean_norm, "norm_scale": norm_scale(mean_norm, base.width(site)),
        "outlier_limit": 2 * mean_norm if limit is None else limit,
    }  # fmt: skip
    return Alignment(values, text, outliers, {which: (total / n).float() for which, total in sums.items()}, figures)


def _figures(values: dict[str, Tensor], text: Tensor, outliers: dict[str, Tensor]) -> dict[str, float]:
    """Means over text; the first position's own; which share of all tokens, and of text, are outliers."""
    usual = text & ~outliers["base"] & ~outliers["finetuned"]
    found = {}
    for measure in ("cosine", "distance", "norm_ratio"):
        for suffix, mask in (("", text), ("_without_outliers", usual)):
            found[measure + suffix] = float(values[measure][mask].double().mean()) if mask.any() else 0.0
        found[f"{measure}_first_position"] = float(values[measure][:, 0].double().mean())
    for which, mask in outliers.items():
        found[f"outlier_share_{which}"] = float(mask.double().mean())
        found[f"outlier_share_of_text_{which}"] = float(mask[text].double().mean()) if text.any() else 0.0
    return found
