"""What is known of features, as pieces of HTML that the tabs share; all text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from demo.workbench import Opened
from sae_tools.analysis.store import Example
from sae_tools.models.lm import shown_pieces
from sae_tools.reports.render import chip, escape, isolated, note, number, share, strip

BAND_TITLES = {"top": "Strongest moments"}
BUTTONS = {"open": "Open", "steer": "Steer", "keep": "☆ Keep"}


def label_of(row: dict[str, Any]) -> str:
    """A feature's label, escaped; a feature without one says so."""
    return isolated(row["label"]) if row["label"] else '<span class="mark">no label</span>'


def name_of(opened: Opened, feature: int) -> str:
    """A feature's label, from the small table: a list of features reads no more of each."""
    return label_of({"label": opened.store.table.at[feature, "label"]})


def known(row: dict[str, Any], column: str) -> float | None:
    """A number of a features' row; None where the stage did not make it or it means nothing for this feature."""
    value = row.get(column)
    return None if value is None or not math.isfinite(value) else float(value)


def listed(row: dict[str, Any], column: str) -> list[Any]:
    """A list of a features' row; an empty one where the stage did not make it."""
    value = row.get(column)
    return [] if value is None or isinstance(value, float | str) else list(value)


def act(what: str, feature: int, content: str, css: str = "") -> str:
    """A button that picks, opens, steers with or keeps a feature; `content` is markup of our own."""
    return f'<button type="button" class="act {css}" data-act="{what}" data-feature="{feature}">{content}</button>'


def buttons(feature: int, acts: Sequence[str] = tuple(BUTTONS)) -> str:
    """What one can do with a feature."""
    return f'<div class="acts">{"".join(act(what, feature, BUTTONS[what]) for what in acts)}</div>'


def title(opened: Opened, feature: int) -> str:
    """Label and id."""
    return f'<h3>{name_of(opened, feature)}</h3><p class="sub">Feature {feature}</p>'


def facts(opened: Opened, feature: int) -> str:
    """How often and how strongly a feature fires; of a dead one, that it never does."""
    row = opened.row(feature)
    if row["maximum"] <= 0:
        tokens = f"{int(opened.about['n_tokens']):,}"
        return note(f"Feature {feature} never fired on the {tokens} tokens examined: it is dead.", "empty")
    shown = [("fires on", share(row["density"]), "of all tokens"), ("maximum", number(row["maximum"]), "")]
    shown.append(("mean", number(row["mean"]), "where it fires"))
    correlation = correlated(opened, feature)
    if correlation is not None:
        shown.append(("base ↔ finetuned", f"{round(correlation, 2) + 0.0:.2f}", "correlation"))
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}<small>{unit}</small></dd></div>" for name, value, unit in shown)
    return f'<dl class="facts">{tiles}</dl>'


def correlated(opened: Opened, feature: int) -> float | None:
    """The feature's correlation with itself in the finetuned model, where the transfer stage measured it."""
    table = opened.agreement
    if table is None or feature not in table.index:
        return None
    value = float(table.at[feature, "correlation"])
    return value if math.isfinite(value) else None


def examples(opened: Opened, feature: int, top: int | None = None) -> str:
    """Places in the text where a feature fires: its `top` strongest, or those of all bands, folded."""
    found = opened.store.examples(feature)
    maximum = float(opened.row(feature)["maximum"])
    if not found:
        return note("No examples were kept for this feature.", "empty")
    if top is not None:
        return "".join(example(opened, each, maximum) for each in found[:top])
    parts = []
    for band, members in groupby(found, key=lambda each: each.band):
        strips = "".join(example(opened, each, maximum) for each in members)
        heading = BAND_TITLES.get(band, f"{band} of its maximum")
        opening = " open" if band == "top" else ""
        parts.append(f"<details{opening}><summary>{escape(heading)}</summary>{strips}</details>")
    return "".join(parts)


def example(opened: Opened, each: Example, maximum: float) -> str:
    """One place, token by token."""
    pieces = shown_pieces(opened.base.tokenizer, [int(i) for i in each.ids])
    body = strip(pieces, [float(v) for v in each.values], maximum, small=True)
    return f'<div class="example"><span class="value">{number(each.activation)}</span>{body}</div>'


def token_texts(opened: Opened, ids: Sequence[int]) -> list[str]:
    """Each token of the vocabulary as text, on its own."""
    raw = opened.base.tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    return [_piece(opened, int(i), str(token)) for i, token in zip(ids, raw, strict=True)]


def token_chips(opened: Opened, ids: Sequence[int]) -> str:
    """Tokens of the vocabulary, each on its own."""
    return f'<div class="chips">{"".join(chip(text) for text in token_texts(opened, ids))}</div>'


def _piece(opened: Opened, token: int, raw: str) -> str:
    """One token's text with its leading space, which some tokenizers drop at the start of a text."""
    text = opened.base.pieces([token])[0]
    return f" {text}" if raw.startswith("▁") and not text.startswith(" ") else text


def rows(opened: Opened, features: Sequence[int], columns: dict[str, Sequence[str]] | None = None) -> str:
    """A table of features that a click opens; `columns` adds cells, markup of our own, by heading."""
    added = columns or {}
    head = "".join(f"<th>{name}</th>" for name in ("Feature", "Id", *added))
    body = []
    for i, feature in enumerate(features):
        name = act("open", feature, name_of(opened, feature), "name")
        cells = "".join(f"<td>{cells[i]}</td>" for cells in added.values())
        body.append(
            f'<tr data-act="open" data-feature="{feature}"><td>{name}</td><td class="id">{feature}</td>{cells}</tr>'
        )
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table>'
