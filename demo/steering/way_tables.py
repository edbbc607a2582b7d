"""A direction seen through the SAE, four ways side by side, as HTML; all text is escaped."""

from __future__ import annotations

from demo import cards
from demo.steering.by_direction import WAYS, Chosen
from demo.steering.pairs import Seen
from demo.workbench import Opened
from sae_tools.analysis.decompose import Way
from sae_tools.reports.render import escape, note, number


def summary(opened: Opened, seen: Seen) -> str:
    """How long the direction is, and how far the pairs agree on it."""
    pairs = len(seen.contrast.positive)
    length = number(seen.contrast.norm / seen.unit)
    agreed = f"{seen.contrast.agreement:.0%} of {pairs} pairs point along it" if pairs > 1 else "from one pair"
    own = (
        "" if seen.ways else f" The SAE reads {escape(str(opened.about['site']))} alone, so it cannot look at this one."
    )
    return note(
        f"The mean difference at <b>{escape(seen.site.name)}</b> is <b>{length}</b> typical activations long; "
        f"{agreed}.{own}"
    )


def ways(opened: Opened, seen: Seen, chosen: Chosen) -> str:
    """The four lists; a feature is opened by its name and chosen by its +."""
    if seen.ways is None:
        return ""
    picked = {feature for _, feature in chosen}
    return '<div class="ways">' + "".join(_way(opened, seen, way, picked) for way in WAYS) + "</div>"


def _way(opened: Opened, seen: Seen, way: Way, picked: set[int]) -> str:
    assert seen.ways is not None
    title, meaning = WAYS[way]
    coefficients = seen.ways.tables[way]["coefficient"] / seen.unit
    largest = float(coefficients.abs().max()) or 1.0
    rows = "".join(
        _row(opened, way, int(feature), float(value), abs(float(value)) / largest, int(feature) in picked)
        for feature, value in coefficients[coefficients != 0].items()
    )
    share = seen.ways.explained(way)
    explained = f"explains {share:.0%} of the squared length" if share > 0 else "explains nothing of its length"
    table = f'<table class="rows"><tbody>{rows}</tbody></table>' if rows else note("No feature.")
    return f'<div class="way"><h4>{title}</h4><p class="note">{meaning}; <b>{explained}</b></p>{table}</div>'


def _row(opened: Opened, way: Way, feature: int, value: float, part: float, picked: bool) -> str:
    name = cards.act("open", feature, cards.label_of(opened.row(feature)), "name")
    sign = "falls" if value < 0 else ""
    mark, title = ("✓", "Leave out") if picked else ("+", "Choose")
    return (
        f'<tr class="{"chosen" if picked else ""}"><td>{name}</td>'
        f'<td class="bar {sign}"><span style="--part:{part:.2f}">{value:+.2f}</span></td>'
        f'<td><button type="button" class="act" data-act="choose" data-feature="{feature}" data-way="{way}" '
        f'title="{title} feature {feature}" aria-pressed="{str(picked).lower()}">{mark}</button></td></tr>'
    )
