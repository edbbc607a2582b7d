"""Which features a stranger sees first, and what is said of them. Knows no Gradio, touches no model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from demo.limits import Refused, feature
from demo.workbench import Opened

SHOWN = 12
"""Features to show where none were chosen by the features stage."""
RARE, FIRINGS = 0.05, 100
"""Then those that fire on at most this share of the tokens, and at least so often."""


@dataclass(frozen=True)
class Steered:
    """What the model wrote from one prompt and seed, as it is and with a feature turned up; neither was chosen."""

    feature: int
    strength: float
    """In median norms."""
    prompt: str
    seed: int
    default: str
    steered: str
    good_share: float
    """Of the texts that the strength was found with, those that showed the feature and stayed fluent; or NaN."""


def concepts(opened: Opened) -> list[int]:
    """Features that stand for one thing, as the features stage chose them; none where it did not."""
    return [entry["feature"] for entry in _entries(opened, "concepts")]


def steering(opened: Opened) -> list[Steered]:
    """Features that steer well, with what they do."""
    return [
        Steered(
            entry["feature"], _number(entry.get("strength")), str(entry.get("prompt", "")), int(entry.get("seed", 0)),
            str(entry.get("default", "")), str(entry.get("steered", "")), _number(entry.get("good_share")),
        )
        for entry in _entries(opened, "steering")
    ]  # fmt: skip


def by_rule(opened: Opened) -> list[int]:
    """Where none were chosen: features that fire seldom but not hardly ever, by concept score, else by their maximum.

    Of features with the same first word the first is shown.
    """
    table: pd.DataFrame = opened.store.table
    often = table["density"] * float(opened.about["n_tokens"]) >= FIRINGS
    column = "concept" if "concept" in table.columns else "maximum"
    ranked = table[often & (table["density"] <= RARE) & table[column].notna()].sort_values(column, ascending=False)
    first = ranked["label"].astype(str).str.split(" · ").str[0].str.lower().str.strip()
    telling = first.str.contains(r"\w")
    return [int(i) for i in first[telling].drop_duplicates().index[:SHOWN]]


def _entries(opened: Opened, kind: str) -> list[dict[str, Any]]:
    """The gallery's entries of one kind whose feature the SAE has."""
    listed = opened.store.gallery.get(kind)
    entries = [dict(entry) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    kept = []
    for entry in entries:
        try:
            kept.append(entry | {"feature": feature(entry.get("feature"), opened.d_sae)})
        except Refused:
            continue
    return kept


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
