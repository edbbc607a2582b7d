"""What is known of features, as HTML: the table of a prompt's strongest ones, and one feature's card."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any
from urllib.parse import urlencode

from demo.workbench import Firing, Opened, Reading
from sae_tools.analysis.store import Example
from sae_tools.models.lm import shown_pieces
from sae_tools.reports.render import chip, escape, isolated, note, number, share, strip

DENSE = 0.1
ROWS = 20
WIDE = ' class="wide"'
COLUMNS = (("Feature", ""), ("Id", WIDE), ("Strongest on", ""), ("Value here", ""), ("Fires on", WIDE))
BAND_TITLES = {"top": "Strongest moments"}


def label_of(row: dict[str, Any]) -> str:
    """A feature's label, escaped; a feature without one says so."""
    return isolated(row["label"]) if row["label"] else '<span class="mark">no label</span>'


def firing_rows(opened: Opened, reading: Reading, hide_dense: bool) -> tuple[list[Firing], int]:
    """The strongest features of a text, and how many were left out since they fire on too many tokens."""
    density = opened.store.table["density"]
    firings = reading.firings()
    kept = [firing for firing in firings if not hide_dense or density.at[firing.feature] <= DENSE]
    return kept, len(firings) - len(kept)


def firing_table(opened: Opened, reading: Reading, chosen: int | None, hide_dense: bool) -> str:
    """Rows that a click or the Enter key picks; the bar is the value as a part of the feature's own maximum."""
    firings, hidden = firing_rows(opened, reading, hide_dense)
    dense = note(f"{hidden} hidden: they fire on more than {DENSE:.0%} of all tokens.") if hidden else ""
    if not firings:
        return note("No feature to show: none fires on this prompt.") + dense
    body = "".join(_firing_row(opened, reading, firing, firing.feature == chosen) for firing in firings[:ROWS])
    head = "".join(f"<th{css}>{name}</th>" for name, css in COLUMNS)
    more = note(f"The strongest {ROWS} of {len(firings)} features that fire.") if len(firings) > ROWS else ""
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}{dense}'


def _firing_row(opened: Opened, reading: Reading, firing: Firing, chosen: bool) -> str:
    row = opened.brief(firing.feature)
    part = min(1.0, firing.value / row["maximum"]) if row["maximum"] > 0 else 1.0
    pressed = "true" if chosen else "false"
    bar = f'<span style="--part:{part:.2f}" title="{part:.0%} of its maximum">{number(firing.value)}</span>'
    return (
        f'<tr data-feature="{firing.feature}" class="{"chosen" if chosen else ""}">'
        f'<td class="name"><button type="button" aria-pressed="{pressed}">{label_of(row)}</button></td>'
        f'<td class="wide id">{firing.feature}</td><td>{chip(reading.pieces[firing.token])}</td>'
        f'<td class="bar">{bar}</td>'
        f'<td class="wide">{share(row["density"])}</td></tr>'
    )


def next_table(reading: Reading) -> str:
    """What the model would write next, as it is, through the SAE, and with nothing at the site; folded."""
    titles = {"model": "The model", "sae": "Through the SAE", "zeros": "Site set to zero"}
    head = "".join(f"<th>{title}</th>" for title in titles.values())
    rows = reading.following.to_dict("records")
    body = "".join(f"<tr>{''.join(_likely(row, way) for way in titles)}</tr>" for row in rows)
    words = note("The likeliest next tokens. The more alike the first two columns, the less the SAE loses here.")
    table = f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f"<details><summary>What comes next, with and without the SAE</summary>{words}{table}</details>"


def _likely(row: dict[str, Any], way: str) -> str:
    return f"<td>{chip(row[way + '_token'])} {share(row[way + '_probability'])}</td>"


def card_head(opened: Opened, feature: int, prompt: str, correlation: float | None) -> str:
    """Name and key numbers of a feature, and the address that opens it."""
    row = opened.brief(feature)
    link = urlencode({"sae": opened.name, "feature": feature, "prompt": prompt}, errors="replace")
    anchor = f'<a href="?{escape(link)}">link to this view</a>'
    title = f'<h3>{label_of(row)}</h3><p class="sub">Feature {feature} · {anchor}</p>'
    if row["maximum"] <= 0:
        tokens = f"{int(opened.store.about['n_tokens']):,}"
        return title + note(f"Feature {feature} never fired on the {tokens} tokens examined: it is dead.", "empty")
    facts = [("fires on", share(row["density"]), "of all tokens"), ("maximum", number(row["maximum"]), "")]
    facts.append(("mean", number(row["mean"]), "where it fires"))
    if correlation is not None:
        facts.append(("base ↔ finetuned", f"{correlation:.2f}", "correlation"))
    tiles = "".join(f"<div><dt>{name}</dt><dd>{value}</dd><small>{unit}</small></div>" for name, value, unit in facts)
    return f'{title}<dl class="facts">{tiles}</dl>'


def card_body(opened: Opened, feature: int) -> str:
    """Examples, promoted and suppressed tokens, nearest features."""
    row = opened.feature(feature)
    if row["maximum"] <= 0:
        return ""
    return _examples(opened, feature, row["maximum"]) + _tokens(opened, row) + _neighbours(opened, row)


def _tokens(opened: Opened, row: dict[str, Any]) -> str:
    up, down = (_chips(opened, row[f"{end}_tokens"]) for end in ("top", "bottom"))
    return (
        f"<h4>What it says next</h4>{note('Tokens that it makes more or less likely to follow.')}"
        f'<div class="pair"><div><h5>More likely</h5>{up}</div><div><h5>Less likely</h5>{down}</div></div>'
    )


def _chips(opened: Opened, ids: Sequence[int]) -> str:
    raw = opened.base.tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    texts = [_piece(opened, int(i), token) for i, token in zip(ids, raw, strict=True)]
    return f'<div class="chips">{"".join(chip(text) for text in texts)}</div>'


def _piece(opened: Opened, token: int, raw: str) -> str:
    """One token's text with its leading space, which some tokenizers drop at the start of a text."""
    text = opened.base.pieces([token])[0]
    return f" {text}" if raw.startswith("▁") and not text.startswith(" ") else text


def _neighbours(opened: Opened, row: dict[str, Any]) -> str:
    near = zip(row["neighbours"], row["neighbour_cosines"], strict=True)
    body = "".join(_neighbour_row(opened, int(other), float(cosine)) for other, cosine in near)
    head = "<thead><tr><th>Feature</th><th>Id</th><th>Cosine</th></tr></thead>"
    return f'<h4>Nearest features</h4><table class="rows">{head}<tbody>{body}</tbody></table>' if body else ""


def _neighbour_row(opened: Opened, other: int, cosine: float) -> str:
    label = label_of(opened.brief(other))
    return (
        f'<tr data-feature="{other}"><td class="name"><button type="button">{label}</button></td>'
        f'<td class="id">{other}</td><td class="id">{cosine:.2f}</td></tr>'
    )


def _examples(opened: Opened, feature: int, maximum: float) -> str:
    parts = []
    for band, examples in groupby(opened.store.examples(feature), key=lambda example: example.band):
        strips = "".join(_example(opened, example, maximum) for example in examples)
        title = BAND_TITLES.get(band, f"{band} of its maximum")
        opening = " open" if band == "top" else ""
        parts.append(f"<details{opening}><summary>{escape(title)}</summary>{strips}</details>")
    if not parts:
        return note("No examples were kept for this feature.", "empty")
    words = note("Text from the training set; the stronger the colour, the more it fires.")
    return f"<h4>Where it fires</h4>{words}{''.join(parts)}"


def _example(opened: Opened, example: Example, maximum: float) -> str:
    pieces = shown_pieces(opened.base.tokenizer, [int(i) for i in example.ids])
    body = strip(pieces, [float(v) for v in example.values], maximum, small=True)
    return f'<div class="example"><span class="value">{number(example.activation)}</span>{body}</div>'
