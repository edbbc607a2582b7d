"""Which features a visitor is shown first: those that look like concepts, and those that steer well, all different."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from sae_tools.analysis.steering import Push, directions, steer
from sae_tools.analysis.words import stem
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel, Patch
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

    Concepts go by C, steering ones by their share of good texts, (good + 1) / (texts + 4) so that a few lucky texts
    count for less, then by S. Left out: a feature whose first word or whose direction is shown already. A text for each
    steering one, from the first seed: never the best of several.
    """
    directed = directions(sae, range(len(table))).cpu()
    orders = (_ranked(table, ["concept"]), _ranked(_written_with(table), ["shrunk", "steering"]))
    concepts, steering = (
        _different(order, directed, table["word"], n) for order, n in zip(orders, config.n_gallery, strict=True)
    )
    strengths = {feature: float(table.loc[feature, "strength"]) for feature in steering}
    plain = _text(lm, config, None) if steering else ""
    return {
        "concepts": [{"feature": feature} for feature in concepts],
        "steering": [
            {
                "feature": feature, "strength": strength, "prompt": PROMPT, "seed": SEED, "default": plain,
                "steered": _text(lm, config, steer(sae, site, [Push(feature, "add", strength)], unit)),
                "good_share": float(table.loc[feature, "good_share"]),
            }
            for feature, strength in strengths.items()
        ],
    }  # fmt: skip


def _written_with(table: pd.DataFrame) -> pd.DataFrame:
    """The features that some texts were good with, and their shrunk share of them."""
    found = table[(table["good_share"] > 0) & (table["word"] != "")]
    return found.assign(shrunk=(found["good_share"] * found["texts"] + 1) / (found["texts"] + 4))


def _ranked(table: pd.DataFrame, columns: list[str]) -> list[int]:
    found = table[table[columns[0]] > 0].sort_values(columns, ascending=False, kind="stable")
    return [int(feature) for feature in found.index]


def _different(order: Sequence[int], directed: Tensor, words: pd.Series, n: int) -> list[int]:
    """The first `n` of `order` of which no two share a word or lie close in (d_sae, d) unit directions."""
    chosen: list[int] = []
    for feature in order:
        if len(chosen) == n:
            break
        known = stem(words[feature]) in {stem(words[other]) for other in chosen}
        if not known and not (directed[chosen] @ directed[feature] > ALIKE).any():
            chosen.append(feature)
    return chosen


def _text(lm: LanguageModel, config: Features, patch: Patch | None) -> str:
    """What the model writes on from the prompt."""
    ids = lm.tokens(PROMPT)
    new = list(lm.generate(ids, config.new_tokens, config.temperature, SEED, patch))
    return "".join(lm.pieces(ids[0].tolist() + new)[ids.shape[1] :])
