"""The table of the features that fire on a text, or on one of its tokens."""

from __future__ import annotations

import pandas as pd

from demo import cards
from demo.ranking import DENSE, Order, common, ranked
from demo.reading import Reading
from demo.workbench import Opened
from sae_tools.reports.render import chip, note, number, share

ROWS = 20
TELLING = "Most telling: its value as a part of its maximum, times its concept score."
HEAD = '<th>Feature</th><th>Strongest on</th><th>Value here</th><th class="wide">Fires on</th>'


def found(
    opened: Opened, reading: Reading, order: Order, token: int | None, hide_common: bool
) -> tuple[pd.DataFrame, int]:
    """The features that fire, as `ranked` has them, and how many were left out since they fire on too many tokens."""
    table = ranked(reading, opened.store.table, order, token)
    left_out = common(table, opened.store.table)
    return (table[~left_out], int(left_out.sum())) if hide_common else (table, 0)


def fired(
    opened: Opened, reading: Reading, chosen: int | None, order: Order, token: int | None, hide_common: bool
) -> str:
    """Rows that a click picks, the chosen one among them where it fires; the bar is value / the feature's maximum."""
    table, hidden = found(opened, reading, order, token, hide_common)
    head = _head(reading, token)
    dense = f"{hidden} hidden: they fire on more than {DENSE:.0%} of all tokens." if hidden else ""
    shown = table.head(ROWS)
    if chosen is not None and chosen not in shown.index:
        everything = ranked(reading, opened.store.table, order, token)
        shown = pd.concat([shown, everything[everything.index == chosen]])
    if shown.empty:
        return head + note(f"No feature to show here. {dense}", "empty")
    body = "".join(_row(opened, reading, each, int(each.Index) == chosen) for each in shown.itertuples())
    more = f"The first {ROWS} of {len(table):,} features that fire. " if len(table) > ROWS else ""
    how = TELLING if order == "telling" and "concept" in opened.store.table else ""
    rows = f'<table class="rows"><thead><tr>{HEAD}</tr></thead><tbody>{body}</tbody></table>'
    return head + rows + note(f"{more}{dense} {how}")


def _head(reading: Reading, token: int | None) -> str:
    if token is None:
        return "<h4>Features that fire on this text <small>click a token for its own</small></h4>"
    back = '<button type="button" class="act link" data-act="whole">← the whole text</button>'
    return f"<h4>Features that fire on {chip(reading.pieces[token])} {back}</h4>"


def _row(opened: Opened, reading: Reading, each: tuple[object, ...], chosen: bool) -> str:
    feature, value, token, part = int(each.Index), each.value, int(each.token), each.part  # type: ignore[attr-defined]
    name = cards.act("pick", feature, cards.name_of(opened, feature), "name")
    density = share(float(opened.store.table.at[feature, "density"]))
    bar = f'<span style="--part:{min(part, 1):.2f}" title="{part:.0%} of its maximum">{number(value)}</span>'
    return (
        f'<tr data-act="pick" data-feature="{feature}" class="{"chosen" if chosen else ""}">'
        f'<td>{name} <small class="id">{feature}</small></td>'
        f'<td>{chip(reading.pieces[token])}</td><td class="bar">{bar}</td>'
        f'<td class="wide id">{density}</td></tr>'
    )
