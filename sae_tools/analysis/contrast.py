"""A direction from pairs of texts: the mean activation of those with something less that of those without it.

Contrastive activation addition (Rimsky et al. 2024, https://arxiv.org/abs/2312.06681): v = mean_i (h⁺_i - h⁻_i), h the
activation of a text at chosen tokens, averaged over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from sae_tools.analysis.pairs import Pair
from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site

Positions = Literal["last", "all"] | Sequence[int]


@dataclass(frozen=True)
class Contrast:
    """What the pairs say, float32 on the processor."""

    positive: Tensor
    """(n_pairs, d_in) each positive text's mean activation over the chosen tokens."""
    negative: Tensor
    """(n_pairs, d_in) likewise."""

    @cached_property
    def vector(self) -> Tensor:
        """(d_in,) v, the mean difference."""
        return (self.positive - self.negative).mean(dim=0)

    @cached_property
    def norm(self) -> float:
        """‖v‖"""
        return float(self.vector.norm())

    @cached_property
    def agreement(self) -> float:
        """Share of pairs whose own difference points along v: (h⁺_i - h⁻_i) · v > 0. With one pair it is 1."""
        return float(((self.positive - self.negative) @ self.vector > 0).float().mean())


@torch.no_grad()
def contrast(
    pairs: Sequence[Pair], lm: LanguageModel, site: Site, positions: Positions = "last", batch_size: int = 16
) -> Contrast:
    """Read both texts of each pair and compare their activations at `site`.

    `positions` are the last token, all of them, or some by number: 0 the first, -1 the last. Special tokens don't
    count. Texts of equal length are read together, so that none is padded.

    Raises:
        InputError: no pair, a text without tokens or too long for the model, or one that lacks a position.
        SettingError: positions of another kind.
    """
    if not pairs:
        raise InputError("no pair of texts was given; give one at least.")
    _check(positions)
    texts = [text for pair in pairs for text in (pair.positive, pair.negative)]
    ids = [lm.tokens(text)[0] for text in texts]
    chosen = [_chosen(i, text, ids[i], lm, positions) for i, text in enumerate(texts)]
    means = torch.zeros(len(texts), lm.width(site))
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(ids):
        by_length.setdefault(len(row), []).append(i)
    for alike in by_length.values():
        for start in range(0, len(alike), batch_size):
            which = alike[start : start + batch_size]
            acts = lm.activations(torch.stack([ids[i] for i in which]), [site])[site.name]
            for i, found in zip(which, acts, strict=True):
                means[i] = found[chosen[i]].float().mean(dim=0).cpu()
    return Contrast(means[0::2], means[1::2])


def _check(positions: Positions) -> None:
    numbers = not isinstance(positions, str) and len(positions) > 0 and all(type(p) is int for p in positions)
    if positions not in ("last", "all") and not numbers:
        raise SettingError(f"positions are {positions!r}; give 'last', 'all' or a list of whole numbers.")


def _chosen(i: int, text: str, ids: Tensor, lm: LanguageModel, positions: Positions) -> Tensor:
    """Indices into (n,) `ids` of the chosen tokens of text `i`, the positive and the negative of each pair in turn."""
    tokens = lm.is_text(ids).nonzero()[:, 0]
    n = len(tokens)
    where = f"the {'negative' if i % 2 else 'positive'} text of pair {i // 2 + 1}, {text[:40]!r},"
    if n == 0:
        raise InputError(f"{where} holds no token; give a few words.")
    if len(ids) > lm.context_size:
        raise InputError(f"{where} has {len(ids)} tokens, but the model reads at most {lm.context_size}; shorten it.")
    if positions == "all":
        return tokens
    numbers = [-1] if positions == "last" else [int(p) for p in positions]
    for number in numbers:
        if not -n <= number < n:
            raise InputError(f"{where} has {n} tokens, none of them at position {number}; give {-n} to {n - 1}.")
    return tokens[numbers]
