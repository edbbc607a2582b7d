"""Which features a stranger sees first, and what is said of them. Knows no Gradio, touches no model."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from demo.limits import Refused, feature
from demo.workbench import Opened
from sae_tools.reports.render import visible

SHOWN = 12
"""Features to show where none were chosen by the features stage."""
RARE, FIRINGS = 0.05, 100
"""Then those that fire on at most this share of the tokens, and at least so often."""
LEAST_SHARE = 0.02
"""A word with less of a feature's activation is none of its own."""


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


def own_words(row: dict[str, Any], gained: Iterable[str] = (), default: str = "") -> set[str]:
    """The words, in lower case, that a feature is seen by in a text.

    Those it fires on, and of those it makes likelier, `gained`, the ones that the text without it, `default`, lacks.
    """
    words, shares = row.get("words"), row.get("word_shares")
    fired: list[str] = []
    if words is not None and shares is not None:
        fired = [str(word) for word, part in zip(words, shares, strict=True) if part >= LEAST_SHARE]
    usual = set(re.findall(r"\w+", default.lower()))
    new = (word.strip().lower() for word in gained)
    found = {word.strip().lower() for word in fired} | {word for word in new if word not in usual}
    return {word for word in found if len(word) > 1 and word.isalpha()}


def marked(text: str, words: set[str]) -> str:
    """Text, escaped, in which some whole words are marked, in whatever case."""
    own = '<mark class="own">{}</mark>'
    parts = ((part, visible(part)) for part in re.split(r"(\w+)", text))
    return "".join(own.format(shown) if part.lower() in words else shown for part, shown in parts)
