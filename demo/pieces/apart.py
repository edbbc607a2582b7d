"""Two texts side by side, and the features that tell one from the other."""

from __future__ import annotations

import pandas as pd

from demo import cards
from demo.pieces.strips import coloured
from demo.ranking import Order, Over, apart, common
from demo.reading import Reading
from demo.workbench import Opened
from sae_tools.reports.render import note, number

ROWS = 10
SAID = {"max": "the largest value", "mean": "the mean over all tokens"}


def side_by_side(
    opened: Opened, texts: tuple[Reading, Reading], chosen: int | None, over: Over, order: Order, hide_common: bool
) -> str:
    """Both texts in the chosen feature's colours; under each the features that fire more in it."""
    columns = []
    for name, (mine, other) in {"A": texts, "B": texts[::-1]}.items():
        found = apart(mine, other, opened.store.table, over, order)
        found = found[~common(found, opened.store.table)] if hide_common else found
        names = ("A", "B") if name == "A" else ("B", "A")
        columns.append(
            f"<div><h5>Text {name}</h5>{coloured(opened, mine, chosen)}"
            f"<h4>More in {name} than in {names[1]}</h4>{_table(opened, found, names, chosen)}</div>"
        )
    words = note(f"Values are {SAID[over]} of each text; – where a feature does not fire.")
    return f'{words}<div class="pair apart">{"".join(columns)}</div>'


def _table(opened: Opened, found: pd.DataFrame, names: tuple[str, str], chosen: int | None) -> str:
    if found.empty:
        return note("None.", "empty")
    head = "".join(f"<th>{name}</th>" for name in ("Feature", *names))
    body = []
    for feature, first, second in zip(found.index[:ROWS], found["first"], found["second"], strict=False):
        css = ' class="chosen"' if feature == chosen else ""
        label = cards.act("pick", feature, cards.name_of(opened, feature), "name")
        body.append(
            f'<tr data-act="pick" data-feature="{feature}"{css}><td>{label} <small class="id">{feature}</small></td>'
            f'<td class="id">{number(first)}</td><td class="id">{number(second) if second else "–"}</td></tr>'
        )
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
