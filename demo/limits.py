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
MAX_PAIRS = 64
MAX_PAIRS_CHARACTERS = 40_000
MODES = ("add", "clamp", "ablate")


class Refused(Exception):  # noqa: N818 - an answer to the visitor, in plain words
    """A request that is not carried out; the text says what to change and is shown to the visitor."""


def prompt(value: object) -> str:
    """Text that a tokenizer can read: not empty, at most `MAX_CHARACTERS`, no half of a surrogate pair."""
    return text(value, "The prompt", MAX_CHARACTERS)


def text(value: object, what: str, most: int) -> str:
    """Text that is not empty, of at most `most` characters, without half of a surrogate pair; `what`: "The prompt"."""
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{what} is empty. Type a few words first.")
    if len(value) > most:
        raise Refused(f"{what} has {len(value):,} characters; at most {most:,} are read.")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise Refused(f"{what} holds a broken character (half of a surrogate pair). Remove it and try again.")
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


def pushes(value: object, d_sae: int) -> list[tuple[int, str, float]]:
    """(feature, mode, strength) of one to `MAX_PUSHES` features, each named once; an ablated one has strength 0."""
    if not isinstance(value, list) or not value:
        raise Refused("No feature is pushed. Add one first.")
    if len(value) > MAX_PUSHES:
        raise Refused(f"At most {MAX_PUSHES} features are pushed at once; take one out first.")
    found: list[tuple[int, str, float]] = []
    for entry in value:
        if not isinstance(entry, list | tuple) or len(entry) != 3:
            raise Refused("A push is a feature, a mode and a strength.")
        number, mode = feature(entry[0], d_sae), choice(entry[1], "Mode", MODES)
        strength = 0.0 if mode == "ablate" else finite(entry[2], "Strength", -MAX_STRENGTH, MAX_STRENGTH)
        if number in [each[0] for each in found]:
            raise Refused(f"Feature {number} is there already; each feature is pushed once.")
        found.append((number, mode, strength))
    return found


def positions(value: object) -> list[int]:
    """Places of tokens from "0, -1": one to 16 whole numbers, 0 the first, -1 the last."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    most = MAX_TOKENS - 1
    if not 0 < len(parts) <= 16 or not all(part.removeprefix("-").isdecimal() and len(part) < 6 for part in parts):
        raise Refused("Tokens are chosen by number, such as 0, 1 for the first two or -1 for the last; at most 16.")
    return [whole(int(part), "Token", -most - 1, most) for part in parts]


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
