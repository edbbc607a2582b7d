"""How hard may one push? The same text written at several strengths, and how far the push shows and hurts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from sae_tools.common.errors import SettingError
from sae_tools.metrics.predictions import losses
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import Site

if TYPE_CHECKING:
    from sae_tools.saes import SAE


@torch.no_grad()
def sweep(
    lm: LanguageModel, ids: Tensor, strengths: Sequence[float], patch_of: Callable[[float], Patch],
    measured: Callable[[Tensor], float], new_tokens: int = 40, temperature: float = 1.0, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Continue (1, n) ids once at each strength, from equal random numbers; the unsteered model then reads each text.

    `patch_of(strength)` pushes; `measured` tells of the whole text's (1, n + new) ids how much of the thing is in it
    (`presence`, `projection`).

    A row a strength; columns ids (the new tokens), text (theirs), amount (what `measured` says), nll (nats a new token:
    how unlikely the text is to the unsteered model), repeated (share of repeated bigrams). Amount and nll are NaN where
    nothing was written.

    Raises:
        SettingError: no strength, no new token, or a prompt that leaves no room.
    """
    n = ids.shape[1]
    if not strengths or new_tokens < 1 or n >= lm.context_size:
        raise SettingError(
            f"{len(strengths)} strengths and {new_tokens} new tokens after {n} of at most {lm.context_size}: "
            "give one strength and one new token at least, and a prompt that leaves room."
        )
    rows = []
    for strength in strengths:
        new = list(lm.generate(ids, new_tokens, temperature, seed, patch_of(strength)))
        whole = torch.cat([ids.cpu(), torch.tensor([new], dtype=ids.dtype)], dim=1).to(lm.device)
        rows.append({
            "strength": strength, "ids": new, "text": "".join(lm.pieces(whole[0].tolist())[n:]),
            "amount": measured(whole) if new else float("nan"),
            "nll": float(losses(whole, lm.logits(whole), {})[0][0, n - 1 :].mean()),
            "repeated": repeated_bigrams(new),
        })  # fmt: skip
    return pd.DataFrame(rows)


def presence(
    sae: SAE[Any], lm: LanguageModel, site: Site, features: Sequence[int], start: int
) -> Callable[[Tensor], float]:
    """A measure for `sweep`: mean over features and over the tokens from `start` on of the features' activations."""

    def measured(ids: Tensor) -> float:
        acts = lm.activations(ids, [site])[site.name]
        return float(sae.encode(acts.to(sae.dtype))[0, start:, list(features)].float().mean())

    return measured


def projection(lm: LanguageModel, site: Site, vector: Tensor, start: int) -> Callable[[Tensor], float]:
    """A measure for `sweep`: mean over the tokens from `start` on of x · v / ‖v‖."""

    def measured(ids: Tensor) -> float:
        acts = lm.activations(ids, [site])[site.name][0, start:].float()
        return float((acts @ (vector / vector.norm()).to(acts)).mean())

    return measured


def repeated_bigrams(ids: Sequence[int]) -> float:
    """1 - distinct pairs of neighbours / all pairs, 0 for fewer than two tokens; above 0.2 a text reads as broken.

    seq-rep-n of Welleck et al. 2019 (https://arxiv.org/abs/1908.04319) at n = 2.
    """
    pairs = list(pairwise(ids))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
