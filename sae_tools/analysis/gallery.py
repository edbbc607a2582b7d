"""Which features a visitor is shown first: those that look like concepts, and those that steer well, all different."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_tools.analysis import judge
from sae_tools.analysis.steering import Push, directions, steer
from sae_tools.analysis.words import stem
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

ALIKE = 0.35
"""Cosine of two decoder directions from which one of them is enough."""
PROMPT = "Tom was sitting in his room."
SEED = 0


def gallery(
    sae: SAE[Any], lm: LanguageModel, site: Site, table: pd.DataFrame, unit: float, config: Features
) -> dict[str, list[dict[str, Any]]]:
    """`concepts` and `steering` features, the best first, from the table of `scores.score`, as plain values.

    Concepts go by C, steering ones by how much of them their texts show, (shown + 1) / (texts + 4) so that a few lucky
    texts count for less, then by S. Left out: a feature whose first word or whose direction is shown already. A text
    for each steering one, from the first seed, whether it shows the feature or not: never the best of several. One
    whose first text is not fluent is not offered.
    """
    directed = directions(sae, range(len(table))).cpu()
    first = _First(sae, lm, site, table["strength"], unit, config)
    n_concepts, n_steering = config.n_gallery
    concepts = _different(_ranked(table, ["concept"]), directed, table["word"], n_concepts)
    order = _ranked(_written_with(table), ["shrunk", "steering"])
    steering = _different(order, directed, table["word"], n_steering, first.is_fluent)
    return {
        "concepts": [{"feature": feature} for feature in concepts],
        "steering": [
            {
                "feature": feature, "strength": float(table.loc[feature, "strength"]), "prompt": PROMPT, "seed": SEED,
                "default": first.text(None), "steered": first.text(feature),
                "good_share": float(table.loc[feature, "good_share"]),
            }
            for feature in steering
        ],
    }  # fmt: skip


class _First:
    """The first text of each feature: what the model writes on from the prompt when it is pushed."""

    def __init__(
        self, sae: SAE[Any], lm: LanguageModel, site: Site, strengths: pd.Series, unit: float, config: Features
    ) -> None:
        self._sae, self._lm, self._site, self._strengths, self._unit = sae, lm, site, strengths, unit
        self._config, self._ids = config, lm.tokens(PROMPT)
        self._new: dict[int | None, list[int]] = {}

    def tokens(self, feature: int | None) -> list[int]:
        """The new tokens; None is no feature."""
        if feature not in self._new:
            patch = None
            if feature is not None:
                push = Push(feature, "add", float(self._strengths[feature]))
                patch = steer(self._sae, self._site, [push], self._unit)
            config = self._config
            new = self._lm.generate(self._ids, config.new_tokens, config.temperature, SEED, patch)
            self._new[feature] = list(new)
        return self._new[feature]

    def text(self, feature: int | None) -> str:
        """What they say."""
        ids = self._ids[0].tolist()
        return "".join(self._lm.pieces(ids + self.tokens(feature))[len(ids) :])

    def is_fluent(self, feature: int) -> bool:
        """Whether the text reads as well as the one without a push, as `judge` has it."""
        return bool(self._measured(feature).fluent(self._measured(None))[0])

    def _measured(self, feature: int | None) -> judge.Measured:
        new = torch.tensor([self.tokens(feature)], dtype=torch.long)
        return judge.Measured(np.zeros(1), judge.loss(self._lm, self._ids, new), judge.repeated(new.numpy()))


def _written_with(table: pd.DataFrame) -> pd.DataFrame:
    """The features that some texts showed, and how much they did, shrunk."""
    found = table[(table["shown"] > 0) & (table["word"] != "")]
    return found.assign(shrunk=(found["shown"] * found["texts"] + 1) / (found["texts"] + 4))


def _ranked(table: pd.DataFrame, columns: list[str]) -> list[int]:
    found = table[table[columns[0]] > 0].sort_values(columns, ascending=False, kind="stable")
    return [int(feature) for feature in found.index]


def _different(
    order: Sequence[int], directed: Tensor, words: pd.Series, n: int, fits: Callable[[int], bool] = lambda _: True
) -> list[int]:
    """The first `n` of `order` that fit, of which no two share a word or lie close in (d_sae, d) unit directions."""
    chosen: list[int] = []
    for feature in order:
        if len(chosen) == n:
            break
        known = stem(words[feature]) in {stem(words[other]) for other in chosen}
        if not known and not (directed[chosen] @ directed[feature] > ALIKE).any() and fits(feature):
            chosen.append(feature)
    return chosen
