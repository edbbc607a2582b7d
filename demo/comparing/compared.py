"""One text in two models: the features that change, and both models' continuations. Knows no Gradio."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from demo.limits import Refused
from demo.reading import Reading
from demo.steering.ask import Ask
from demo.workbench import Opened
from demo.writing import Written, write
from sae_tools.analysis.steering import Push, steer


@dataclass(frozen=True)
class Change:
    """A feature where it differs most between the two models."""

    feature: int
    token: int
    base: float
    """Its value there in the base model,"""
    finetuned: float
    """and in the finetuned one."""

    @property
    def by(self) -> float:
        return self.finetuned - self.base


def changes(base: Reading, finetuned: Reading, maxima: np.ndarray) -> list[Change]:
    """Every feature that differs, at the token where it differs most; the largest share of its own maximum first.

    `maxima` (d_sae,): a feature's maximum over all text, 0 for one that never fired there; such a one, and one that
    here goes beyond it, is measured by its largest value here.

    Raises:
        Refused: the two models cut the text into different tokens.
    """
    if base.pieces != finetuned.pieces:
        raise Refused("The two models cut this text into different tokens, which cannot be compared one by one.")
    n, readings = len(base.pieces), (base, finetuned)
    cells = [reading.feature.numpy() * n + reading.token.numpy() for reading in readings]
    cell, where = np.unique(np.concatenate(cells), return_inverse=True)
    own = np.split(where, [len(cells[0])])
    values = np.stack([
        np.bincount(mine, reading.value.numpy(), len(cell)) for mine, reading in zip(own, readings, strict=True)
    ])  # fmt: skip
    feature, change = cell // n, np.abs(values[1] - values[0])
    largest = maxima.copy()
    np.maximum.at(largest, feature, values.max(axis=0))
    share = change / largest[feature]
    order = np.lexsort((-share, feature))
    order = order[np.unique(feature[order], return_index=True)[1]]  # of each feature, its largest
    order = order[change[order] > 0]
    order = order[np.argsort(-share[order], kind="stable")]
    return [Change(int(feature[i]), int(cell[i] % n), float(values[0, i]), float(values[1, i])) for i in order]


@dataclass(frozen=True)
class Quartet:
    """Four continuations of one text, so far."""

    base: Written
    finetuned: Written


def write_both(opened: Opened, ask: Ask, push: Push) -> Iterator[Quartet]:
    """Continue a text in both models, each as it is and with one feature pushed equally far; yields as they grow.

    Raises:
        Refused: the text leaves no room.
    """
    models = (opened.base, opened.finetuned)
    streams = [
        write(
            opened, lm, ask.prompt, steer(opened.sae, lm.site(opened.about["site"]), [push], opened.unit),
            ask.new_tokens, ask.temperature, ask.seed,
        )
        for lm in models
    ]  # fmt: skip
    last = [Written("", "", 0, ([], []))] * 2
    alive = [True, True]
    while any(alive):
        for i, stream in enumerate(streams):
            step = next(stream, None) if alive[i] else None
            alive[i] = step is not None
            last[i] = step or last[i]
        if any(alive):
            yield Quartet(*last)
