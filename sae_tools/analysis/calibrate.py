"""How hard each feature may be pushed, found by writing: which share of the texts is good at each of a few strengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis import judge
from sae_tools.analysis.steering import directions
from sae_tools.analysis.words import Words
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import Site
from sae_tools.models.writer import write_rows
from sae_tools.saes import SAE

ROWS = 256
"""Texts written in one pass."""


class Trials:
    """Writes texts with features pushed, and judges them beside the unsteered ones."""

    def __init__(
        self, sae: SAE[Any], lm: LanguageModel, site: Site, unit: float, words: Words, length: int, temperature: float
    ) -> None:
        self._sae, self._lm, self._site, self._unit, self._words = sae, lm, site, unit, words
        self._length, self._temperature = length, temperature
        self._plain: dict[tuple[str, int], Tensor] = {}

    def run(
        self, features: np.ndarray, own: np.ndarray, strengths: Sequence[float], prompts: Sequence[str],
        seeds: Sequence[int],
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Which texts are good, and which fluent: each (features, strengths, prompts · seeds).

        `own` are the features' own words, as `judge.own_words` gives them.
        """
        shape = (len(features), len(strengths), len(seeds))
        each = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).reshape(-1, 3)
        good, fluent = (np.zeros((len(each), len(prompts)), bool) for _ in range(2))
        with tqdm(total=len(each) * len(prompts), desc="calibrate", unit="text") as bar:
            for at, prompt in enumerate(prompts):
                ids = self._lm.tokens(prompt)
                for rows in np.array_split(np.arange(len(each)), -(-len(each) // ROWS)):
                    feature, strength, seed = each[rows].T
                    amount = self._unit * torch.tensor(strengths)[strength].to(self._sae.W_dec.device)
                    push = amount[:, None] * directions(self._sae, features[feature].tolist())
                    chosen = [seeds[i] for i in seed]
                    new = self.write(ids, chosen, push)
                    steered, plain = (
                        judge.measure(self._lm, ids, texts, own[feature], self._words)
                        for texts in (new, torch.stack([self._unsteered(prompt, ids, one) for one in chosen]))
                    )
                    good[rows, at], fluent[rows, at] = steered.good(plain), steered.fluent(plain)
                    bar.update(len(rows))
        return tuple(it.reshape(*shape[:2], -1) for it in (good, fluent))

    def write(self, ids: Tensor, seeds: Sequence[int], push: Tensor | None) -> Tensor:
        """(rows, length) new tokens after (1, n) ids, one row a seed, each with its row of (rows, d) `push` added."""
        patch = None if push is None else Patch(self._site, lambda acts: acts + push[:, None].to(acts))
        return write_rows(self._lm, ids.expand(len(seeds), -1), self._length, self._temperature, seeds, patch)

    def _unsteered(self, prompt: str, ids: Tensor, seed: int) -> Tensor:
        if (prompt, seed) not in self._plain:
            self._plain[prompt, seed] = self.write(ids, [seed], None)[0]
        return self._plain[prompt, seed]
