"""Places in a text that show what a feature does: the strongest, one a block, and some of each quarter of its range."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd

from sae_tools.analysis.firings import BINS, Firings
from sae_tools.common.settings import Features

BANDS = ("0–25%", "25–50%", "50–75%", "75–100%")


def pick_examples(firings: Firings, ids: np.ndarray, context: int, config: Features) -> pd.DataFrame:
    """Columns feature and those of `store.Example`; of each feature the top ones first, then from high to low quarters.

    `ids` are those of all blocks of `context` tokens, flattened. What is drawn from a quarter is no top example.
    """
    top = _strongest(firings, context, config.n_top)
    drawn = _drawn(firings, top, config.n_per_band)
    chosen, band = np.concatenate([top, *drawn]), np.repeat(range(5), [len(top), *map(len, drawn)])
    order = np.lexsort((band, firings.feature[chosen]))
    chosen, band = chosen[order], band[order]
    return pd.DataFrame(
        {
            "feature": firings.feature[chosen].astype(np.int64),
            "band": np.array(["top", *reversed(BANDS)], object)[band],
            "activation": firings.value[chosen].astype(np.float64),
            **_windows(firings, chosen, ids, context, config.window),
        }
    )


def _strongest(firings: Firings, context: int, n: int) -> np.ndarray:
    """Indices of each feature's `n` largest values, one a block, the largest first and of equals the earliest."""
    if not len(firings.token):
        return np.zeros(0, np.intp)
    runs = _starts_of_runs(firings.feature, firings.token // context)
    run = np.repeat(np.arange(len(runs)), np.diff(runs, append=len(firings.token)))
    best = np.flatnonzero(firings.value == np.maximum.reduceat(firings.value, runs)[run])
    peaks = best[_starts_of_runs(run[best])]
    # Only the steps of a feature's range that hold its n largest are put in order.
    feature, step = firings.feature[peaks], firings.bin[peaks].astype(np.int64)
    held = np.bincount(feature * BINS + step, minlength=firings.d_sae * BINS).reshape(-1, BINS)
    above = np.cumsum(held[:, ::-1], axis=1)[:, ::-1] - held
    peaks = peaks[above[feature, step] < n]
    peaks = peaks[np.lexsort((-firings.value[peaks], firings.feature[peaks]))]
    strongest: np.ndarray = peaks[_rank(firings.feature[peaks]) < n]
    return strongest


def _drawn(firings: Firings, top: np.ndarray, n: int) -> list[np.ndarray]:
    """For each quarter from the highest: indices of up to `n` values of each feature, drawn from all over the text."""
    quarter = firings.bin // (BINS // len(BANDS))
    quarter[top] = len(BANDS)
    chance = np.random.default_rng(0)
    drawn = []
    for band in reversed(range(len(BANDS))):
        members = np.flatnonzero(quarter == band)
        count = np.bincount(firings.feature[members], minlength=firings.d_sae)[:, None]
        parts, part = np.minimum(count, n).clip(min=1), np.arange(n)
        low, high = part * count // parts, (part + 1) * count // parts
        place = low + (chance.random((firings.d_sae, n)) * (high - low)).astype(np.int64)
        first = (np.cumsum(count) - count[:, 0])[:, None]
        drawn.append(members[(first + place)[part < np.minimum(count, n)]])
    return drawn


def _windows(firings: Firings, chosen: np.ndarray, ids: np.ndarray, context: int, before: int) -> dict[str, object]:
    """The tokens around each of the chosen firings, inside its block, and the feature's values at them."""
    at, after = firings.token[chosen].astype(np.int64), before // 2
    block = at - at % context
    start, end = np.maximum(block, at - before), np.minimum(block + context, at + after + 1)
    offsets = np.concatenate([[0], np.cumsum(end - start)])
    places = np.arange(offsets[-1]) + np.repeat(start - offsets[:-1], end - start)
    values = np.zeros(offsets[-1], np.float32)
    # Firings of one feature lie side by side, those of a window at most as far apart as its tokens.
    for step in range(-before, after + 1):
        other = np.clip(chosen + step, 0, max(len(firings.token) - 1, 0))
        token = firings.token[other]
        inside = (firings.feature[other] == firings.feature[chosen]) & (token >= start) & (token < end)
        values[(offsets[:-1] + token - start)[inside]] = firings.value[other][inside]
    return {
        "ids": pd.Series(cut_at(ids[places], offsets), dtype=object),
        "values": pd.Series(cut_at(values, offsets), dtype=object),
        "position": at - start,
    }


def cut_at(row: np.ndarray, offsets: np.ndarray) -> list[np.ndarray]:
    """What lies between each two offsets: `np.split`, in a fifth of its time."""
    return [row[start:end] for start, end in pairwise(offsets.tolist())]


def _starts_of_runs(*columns: np.ndarray) -> np.ndarray:
    """Where rows of columns differ from the row before."""
    new = np.ones(len(columns[0]), bool)
    new[1:] = np.any([column[1:] != column[:-1] for column in columns], axis=0)
    return np.flatnonzero(new)


def _rank(ordered: np.ndarray) -> np.ndarray:
    """How many equal values stand before each of some in order."""
    return np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
