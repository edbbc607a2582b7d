"""Which features are pushed and how hard: what to begin with, and how the address says it. Knows no Gradio."""

from __future__ import annotations

from typing import Any

from demo import limits
from demo.asked import numeral
from demo.cards import known
from demo.limits import Refused
from demo.workbench import Opened
from sae_tools.analysis.steering import Push

FIRM = 0.4
"""A strength that shows and leaves the text whole, where a feature's own was not measured; in median norms."""
FLUENT = (0.25, 0.5)
MOST_SUGGESTED = 8


def checked(opened: Opened, value: object) -> list[Push]:
    """Pushes from [feature, mode, strength] triples.

    Raises:
        Refused: anything that `limits.pushes` refuses, or a dead feature.
    """
    found = [Push(*each) for each in limits.pushes(value, opened.d_sae)]  # type: ignore[arg-type]
    for push in found:
        if opened.store.table.at[push.feature, "maximum"] <= 0:
            raise Refused(f"Feature {push.feature} never fired: nothing is known of its direction. Choose another.")
    return found


def triples(pushes: list[Push]) -> list[list[Any]]:
    """As `checked` reads them."""
    return [[push.feature, push.mode, push.strength] for push in pushes]


def written(pushes: list[Push]) -> str:
    """For the address: 12:add:0.4,7:ablate:0"""
    return ",".join(f"{push.feature}:{push.mode}:{push.strength:g}" for push in pushes)


def parsed(opened: Opened, text: str) -> list[Push]:
    """What `written` wrote.

    Raises:
        Refused: it does not say pushes, or they are refused.
    """
    entries = [each.split(":") for each in text.split(",")[: limits.MAX_PUSHES + 1]]
    if any(len(each) != 3 for each in entries):
        raise Refused("pushes have the form 12:add:0.4 (feature, mode, strength), with commas between them.")
    return checked(opened, [[numeral(feature), mode, _decimal(strength)] for feature, mode, strength in entries])


def _decimal(text: str) -> object:
    try:
        return float(text)
    except ValueError:
        return text


def start(opened: Opened, feature: int) -> Push:
    """A feature added at the strength found best for it, else a firm one."""
    strength = known(opened.row(feature), "strength")
    most = limits.MAX_STRENGTH
    return Push(feature, "add", FIRM if strength is None else max(-most, min(most, round(strength, 2))))


def suggested(opened: Opened) -> list[int]:
    """Features that steer well, the best first: those of the gallery, else by score, else the loudest."""
    shown = [int(entry["feature"]) for entry in opened.store.gallery.get("steering", [])]
    if shown:
        return shown[:MOST_SUGGESTED]
    table = opened.store.table
    alive = table[table["maximum"] > 0]
    by = "steering" if "steering" in table and (alive["steering"] > 0).any() else "maximum"
    return [int(feature) for feature in alive[by].nlargest(MOST_SUGGESTED).index]


def fluent(row: dict[str, Any]) -> tuple[float, float]:
    """The strengths at which a feature's text stays whole, as measured, else as is usual."""
    low, high = known(row, "strength_low"), known(row, "strength_high")
    return FLUENT if low is None or high is None else (low, high)
