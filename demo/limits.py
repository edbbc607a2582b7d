"""What a visitor may ask for, checked before any model is touched.

Every value that arrives from a browser passes through here first: a browser's own limits are suggestions, and
anyone can send any JSON. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

MAX_CHARACTERS = 2_000
MAX_SEARCH = 100
MAX_TOKENS = 256
MAX_NEW_TOKENS = 128
MAX_SECONDS = 20.0
MAX_STRENGTH = 1.0
MAX_SEED = 2**31 - 1
MAX_BASKET = 100
MAX_PUSHES = 5


class Refused(Exception):  # noqa: N818 - an answer to the visitor, in plain words
    """A request that is not carried out; the text says what to change and is shown to the visitor."""


def prompt(value: object) -> str:
    """Text that a tokenizer can read: not empty, at most `MAX_CHARACTERS`, no half of a surrogate pair."""
    if not isinstance(value, str) or not value.strip():
        raise Refused("The prompt is empty. Type a few words first.")
    if len(value) > MAX_CHARACTERS:
        raise Refused(f"The prompt has {len(value):,} characters; at most {MAX_CHARACTERS:,} are read.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Refused("The prompt holds a broken character (half of a surrogate pair). Remove it and try again.")
    return value


def search(value: object) -> str:
    """What is looked for: at most `MAX_SEARCH` characters, or nothing."""
    if not isinstance(value, str) or not value.strip():
        return ""
    text = prompt(value).strip()
    if len(text) > MAX_SEARCH:
        raise Refused(f"The search has {len(text):,} characters; at most {MAX_SEARCH} are looked for.")
    return text


def whole(value: object, what: str, low: int, high: int) -> int:
    """A whole number between `low` and `high`, both included; 12.0 counts as 12, true does not count as 1."""
    number = finite(value, what, low, high, f"a whole number from {low:,} to {high:,}")
    if number != int(number):
        raise Refused(f"{what} must be a whole number from {low:,} to {high:,}.")
    return int(number)


def finite(value: object, what: str, low: float, high: float, expected: str = "") -> float:
    """A number between `low` and `high`; no text, no truth value, no NaN and no infinity."""
    expected = expected or f"a number from {low:g} to {high:g}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Refused(f"{what} must be {expected}.")
    # Compared before it is converted: float() of a huge int overflows.
    if not low <= value <= high or not math.isfinite(value):
        raise Refused(f"{what} must be {expected}.")
    return float(value)


def choice(value: object, what: str, allowed: Sequence[str]) -> str:
    """One of `allowed`."""
    if not isinstance(value, str) or value not in allowed:
        raise Refused(f"{what} must be one of: {', '.join(allowed)}.")
    return value


def feature(value: object, d_sae: int) -> int:
    """The id of a feature that an SAE of `d_sae` features has."""
    return whole(value, "Feature", 0, d_sae - 1)


def basket(value: object) -> list[dict[str, Any]]:
    """Entries of a basket as a browser kept them: an SAE's name, a feature's id, a label; what is none is left out."""
    if not isinstance(value, list):
        return []
    entries = [entry for entry in value[:MAX_BASKET] if isinstance(entry, dict)]
    return [
        {"sae": entry["sae"], "feature": entry["feature"], "label": str(entry.get("label", ""))[:200]}
        for entry in entries
        if isinstance(entry.get("sae"), str) and type(entry.get("feature")) is int and entry["feature"] >= 0
    ]
