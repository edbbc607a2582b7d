"""How hard each feature may be pushed, found by writing: which share of its texts is good at each of a few strengths.

In three rounds, each with seeds of its own, so that most texts go to the features that do best: all at the middle
strength, the better ones at every strength, the best ones once more with many texts. What is a good text: `judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis import judge
from sae_tools.analysis.steering import directions
from sae_tools.analysis.words import Words
from sae_tools.common import distributed
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import Site
from sae_tools.models.writer import write_rows
from sae_tools.saes import SAE

ROWS = 128
"""Texts written in one pass."""
FIRST_SEED = 100


@dataclass(frozen=True)
class Round:
    """A round of texts: with which share of the features, and how many seeds a prompt and strength."""

    share: float
    seeds: int
    every_strength: bool = True


ROUNDS = (Round(1.0, 1, every_strength=False), Round(0.15, 1), Round(0.05, 3))
MOST_BROKEN = 0.2
"""Share of the texts that may not be fluent at a strength in a feature's range."""


class Trials:
    """Writes texts with features pushed, and judges them beside the unsteered ones."""

    def __init__(
        self, sae: SAE[Any], lm: LanguageModel, site: Site, unit: float, words: Words, config: Features
    ) -> None:
        self._sae, self._lm, self._site, self._unit, self._words, self._config = sae, lm, site, unit, words, config
        self._plain: dict[tuple[str, int], tuple[Tensor, np.ndarray, np.ndarray]] = {}

    def run(
        self, features: np.ndarray, own: np.ndarray, strengths: Sequence[float], seeds: Sequence[int]
    ) -> np.ndarray:
        """(3, features, strengths) of one text a prompt and seed: the sums of `more`, `good` and `fluent`.

        `own` are the features' own words, as `judge.own_words` gives them. Several processes share the passes: a text
        depends on its seed and on the others of its pass alone.
        """
        shape = (len(features), len(strengths), len(seeds))
        feature, strength, seed = (axis.ravel() for axis in np.indices(shape))
        sums = np.zeros((3, len(feature)))
        passes = list(product(self._config.prompts, range(0, len(feature), ROWS)))
        bar = tqdm(distributed.share(passes), desc="calibrate", unit="pass", disable=distributed.rank() > 0)
        for prompt, start in bar:
            rows = slice(start, start + ROWS)
            amount = self._unit * torch.tensor(strengths)[strength[rows]]
            push = amount[:, None].to(self._lm.device) * directions(self._sae, features[feature[rows]].tolist())
            sums[:, rows] += self._judged(prompt, [seeds[i] for i in seed[rows]], push, own[feature[rows]])
        distributed.sum_(torch.from_numpy(sums))
        found: np.ndarray = sums.reshape(3, *shape).sum(axis=-1)
        return found

    def _judged(self, prompt: str, seeds: list[int], push: Tensor, own: np.ndarray) -> np.ndarray:
        """(3, rows) how far texts, one a seed and row of (rows, d) `push`, show it, and which are good and fluent."""
        ids = self._lm.tokens(prompt)
        steered = judge.measure(self._lm, ids, self.write(ids, seeds, push), own, self._words)
        for seed in {seed for seed in seeds if (prompt, seed) not in self._plain}:
            text = self.write(ids, [seed], None)
            self._plain[prompt, seed] = (text, judge.loss(self._lm, ids, text), judge.repeated(text.numpy()))
        texts, loss, repeated = zip(*(self._plain[prompt, seed] for seed in seeds), strict=True)
        shown = judge.shown(torch.cat(texts).numpy(), own, self._words)
        plain = judge.Measured(shown, np.concatenate(loss), np.concatenate(repeated))
        return np.stack([steered.more(plain), steered.good(plain), steered.fluent(plain)])

    def write(self, ids: Tensor, seeds: Sequence[int], push: Tensor | None) -> Tensor:
        """(rows, new) tokens after (1, n) ids, one row a seed, each with its row of (rows, d) `push` added."""
        patch = None if push is None else Patch(self._site, lambda acts: acts + push[:, None].to(acts))
        config = self._config
        return write_rows(self._lm, ids.expand(len(seeds), -1), config.new_tokens, config.temperature, seeds, patch)


def calibrate(trials: Trials, features: np.ndarray, own: np.ndarray, config: Features) -> pd.DataFrame:
    """A row for each of `features`, the likeliest first; columns as `summary` gives them."""
    strengths = np.array(config.strengths)
    sums = np.zeros((4, len(features), len(strengths)))  # more, good, fluent, written
    going, seed = np.arange(len(features)), FIRST_SEED
    for n in ROUNDS if len(features) else ():
        shrunk = np.where(sums[3] > 0, (sums[0] + 1) / (sums[3] + 4), 0)
        going = going[np.argsort(-shrunk[going].max(axis=1), kind="stable")][: max(1, round(n.share * len(features)))]
        at = np.arange(len(strengths)) if n.every_strength else np.array([len(strengths) // 2])
        seeds = range(seed, seed + n.seeds)
        found = trials.run(features[going], own[going], strengths[at].tolist(), seeds)
        written = np.full_like(found[:1], n.seeds * len(config.prompts))
        sums[:, going[:, None], at] += np.concatenate([found, written])
        seed += n.seeds
    return summary(features, strengths, *sums)


def summary(
    features: np.ndarray, strengths: np.ndarray, more: np.ndarray, good: np.ndarray, fluent: np.ndarray,
    written: np.ndarray,
) -> pd.DataFrame:  # fmt: skip
    """A row a feature, from sums of what shows, is good and is fluent, over how many texts, each (n, strengths).

    `strength` shows most, of equals the least, among those at which most texts stay fluent, or is the least that was
    tried; `shown` and `good_share` are means at it, over `texts` texts; `strength_low` and `strength_high` bound the
    strengths at which most texts stay fluent and at least half as much shows (NaN: none).
    """
    tried = written > 0
    share, fine, whole = (
        np.divide(of, written, out=np.full(of.shape, -1.0), where=tried) for of in (more, good, fluent)
    )
    bearable = tried & (whole >= 1 - MOST_BROKEN)
    row = np.arange(len(features))
    best = np.where(bearable.any(axis=1), np.where(bearable, share, -1).argmax(axis=1), tried.argmax(axis=1))
    usable = bearable & (share >= share[row, best][:, None] / 2)
    bounds = np.where(usable, strengths, np.nan)
    some = usable.any(axis=1)
    low, high = (np.full(len(features), np.nan) for _ in range(2))
    low[some], high[some] = np.nanmin(bounds[some], axis=1), np.nanmax(bounds[some], axis=1)
    return pd.DataFrame(
        {"strength": strengths[best], "strength_low": low, "strength_high": high, "shown": share[row, best],
         "good_share": fine[row, best], "texts": written[row, best].astype(np.int64)},
        index=pd.Index(features, name="feature"),
    )  # fmt: skip
