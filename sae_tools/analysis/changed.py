"""The features that finetuning changed most, with the tokens where each fires in either model and where both part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

OFTEN = 0.02
"""Density above which a feature means no one thing, and is not shown."""
BEFORE, AFTER = 10, 5
"""Tokens shown before and after an example's token."""
KINDS = ("base", "finetuned", "parts")
"""Where the feature is strongest in the base model, in the finetuned one, and where the two differ most."""


def most_changed(features: pd.DataFrame, decoder_norms: np.ndarray, n: int) -> pd.DataFrame:
    """The `n` features that changed most: by mean |f - g| ‖W_dec‖ (1 - r), r their correlation (0 where it has none).

    `features` as `survival.paired_features`. A feature that is only weaker in one model keeps its r and stands far
    down. Those that fire often are left out. Adds `share_of_difference`, what a feature carries of the summed
    mean |f - g| ‖W_dec‖ of all.
    """
    carried = features["difference"] * decoder_norms
    often = features[["density_base", "density_finetuned"]].max(axis=1) > OFTEN
    changed = (carried * (1 - features["correlation"].fillna(0)))[~often & (carried > 0)]
    share = (carried / max(float(carried.sum()), 1e-30)).rename("share_of_difference")
    return features.join(share).loc[changed.nlargest(n).index]


@torch.no_grad()
def examples(
    sae: SAE[Any],
    base: LanguageModel,
    finetuned: LanguageModel,
    site: Site,
    ids: Tensor,
    batch_size: int,
    features: list[int],
    n: int = 3,
) -> pd.DataFrame:
    """Columns feature, kind, ids, base and finetuned (the feature at each of them), position (the token's place there).

    Of (n_blocks, context) ids; one example a block, at most `n` of a kind.
    """
    values = {
        which: _columns(sae, lm, site, ids, batch_size, features)
        for which, lm in (("base", base), ("finetuned", finetuned))
    }
    scores = values | {"parts": (values["base"] - values["finetuned"]).abs()}
    rows = []
    for i, feature in enumerate(features):
        for kind in KINDS:
            best = scores[kind][..., i].max(dim=1)
            for block in best.values.topk(min(n, len(ids))).indices.tolist():
                if best.values[block] > 0:
                    own = {which: found[block, :, i] for which, found in values.items()}
                    row = _window(ids[block], own, int(best.indices[block]))
                    rows.append({"feature": feature, "kind": kind, **row})
    return pd.DataFrame(rows, columns=["feature", "kind", "ids", "base", "finetuned", "position"])


def _columns(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int, features: list[int]) -> Tensor:
    """(n_blocks, context, len(features)) activations, 0 at special tokens."""
    parts = []
    for batch in distributed.share(torch.split(ids.long(), batch_size)):
        acts = lm.activations(batch, [site])[site.name]
        text = lm.is_text(batch).to(acts.device)
        found = acts.new_zeros(*batch.shape, len(features), dtype=torch.float32)
        found[text] = sae.encode(acts[text].to(sae.dtype))[:, features].float()
        parts.append(found.cpu())
    return distributed.cat(parts)


def _window(block: Tensor, values: dict[str, Tensor], at: int) -> dict[str, Any]:
    start, end = max(0, at - BEFORE), min(len(block), at + AFTER + 1)
    shown = {which: found[start:end].tolist() for which, found in values.items()}
    return {"ids": block[start:end].tolist(), **shown, "position": at - start}
