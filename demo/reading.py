"""A text as a model reads it: its tokens, and the features that fire on them. Knows no Gradio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import Tensor

from demo.limits import MAX_TOKENS
from demo.workbench import Opened
from sae_tools.analysis.next_tokens import after_last
from sae_tools.models.lm import LanguageModel

Which = Literal["base", "finetuned"]
NEXT = 10
"""Likeliest next tokens that are shown."""
REMEMBERED = 64


@dataclass(frozen=True)
class Firing:
    """A feature's strongest moment in a text, or on a token."""

    feature: int
    value: float
    token: int


@dataclass(frozen=True)
class Reading:
    """A text's tokens and the features that fire on them; only what is not zero is kept."""

    pieces: list[str]
    """Text of each token; special tokens are left out."""
    token: Tensor
    """(n,) index into `pieces` of each non-zero activation."""
    feature: Tensor
    """(n,) its feature."""
    value: Tensor
    """(n,) its value."""
    error: list[float]
    """Of each token, ‖x - x̂‖² / ‖x‖²: what the SAE leaves out."""
    cut: bool
    """Whether the text went on after the last token."""
    following: pd.DataFrame
    """The likeliest tokens after the last one, with and without the SAE, as `after_last` gives them."""

    def of(self, feature: int) -> list[float]:
        """One feature's value on each token."""
        values = torch.zeros(len(self.pieces))
        mine = self.feature == feature
        values[self.token[mine]] = self.value[mine]
        return values.tolist()

    def strongest(self) -> list[float]:
        """The largest value of any feature on each token."""
        values = torch.zeros(len(self.pieces))
        return values.scatter_reduce(0, self.token, self.value, "amax").tolist()

    def firings(self, token: int | None = None) -> list[Firing]:
        """Every feature that fires, at its strongest token, or on one token alone; the strongest first."""
        here = slice(None) if token is None else self.token == token
        value, feature, where = self.value[here], self.feature[here], self.token[here]
        order = value.argsort(descending=True, stable=True)
        best: dict[int, Firing] = {}
        rows = zip(feature[order].tolist(), value[order].tolist(), where[order].tolist(), strict=True)
        for each, strength, place in rows:
            best.setdefault(each, Firing(each, strength, place))
        return list(best.values())


def read(opened: Opened, text: str, which: Which = "base") -> Reading:
    """The features of a text's first `MAX_TOKENS` tokens, as many as the model has room for; the last 64 are kept."""
    lm = opened.base if which == "base" else opened.finetuned
    _ = opened.sae, opened.site  # loaded before the turn is taken
    key = (which, text)
    with opened.turn:
        if key not in opened.readings:
            opened.readings[key] = _read(opened, lm, text)
            while len(opened.readings) > REMEMBERED:
                opened.readings.popitem(last=False)
        opened.readings.move_to_end(key)
        found: Reading = opened.readings[key]
        return found


def remembered(opened: Opened, text: str, which: Which = "base") -> Reading | None:
    """A text's reading, where it is among the last 64; runs no model."""
    found: Reading | None = opened.readings.get((which, text))
    return found


@torch.no_grad()
def _read(opened: Opened, lm: LanguageModel, text: str) -> Reading:
    ids = lm.tokens(text)
    limit = min(lm.context_size, MAX_TOKENS)
    cut, ids = ids.shape[1] > limit, ids[:, :limit]
    is_text = lm.is_text(ids)[0]
    acts = lm.activations(ids, [opened.site])[opened.site.name][0, is_text].to(opened.sae.dtype)
    features = opened.sae.encode(acts)
    missed = (acts - opened.sae.decode(features)).float().square().sum(-1) / acts.float().square().sum(-1)
    features = features.float().cpu()
    shown = is_text.tolist()
    pieces = [piece for piece, text_ in zip(lm.pieces(ids[0].tolist()), shown, strict=True) if text_]
    if pieces and not text.startswith(" "):
        pieces[0] = pieces[0].removeprefix(" ")  # put there by some tokenizers
    token, feature = features.nonzero(as_tuple=True)
    following = after_last(opened.sae, lm, opened.site, ids, NEXT)
    return Reading(pieces, token, feature, features[token, feature], missed.tolist(), cut, following)
