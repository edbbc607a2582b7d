"""Two models side by side, as pieces of HTML; all text is escaped."""

from __future__ import annotations

import pandas as pd

from demo import cards
from demo.comparing.compared import Change, Quartet
from demo.limits import MAX_TOKENS
from demo.reading import Reading
from demo.steering import pieces
from demo.workbench import Opened
from sae_tools.models.lm import shown_pieces
from sae_tools.reports.render import chip, escape, legend, note, number, share, strip

SHOWN, STRONGEST = 12, 4
KINDS = {
    "parts": "Where the two part most", "base": "Strongest in the base model",
    "finetuned": "Strongest in the finetuned model",
}  # fmt: skip
Readings = tuple[Reading, Reading]


def names(opened: Opened) -> tuple[str, str]:
    """The base and the finetuned model's name without owner and folder, escaped."""
    about = opened.about
    base, finetuned = (model["name"].rstrip("/").split("/")[-1] for model in (about["base"], about["finetuned"]))
    return escape(base), escape(finetuned)


def heads(opened: Opened) -> tuple[str, str]:
    """A heading for each model."""
    base, finetuned = names(opened)
    return f"<h4>Base <small>{base}</small></h4>", f"<h4>Finetuned <small>{finetuned}</small></h4>"


def strips(opened: Opened, readings: Readings, feature: int) -> str:
    """The text twice, in the feature's colours, on one scale."""
    row, values = opened.row(feature), [reading.of(feature) for reading in readings]
    top = float(row["maximum"]) or max(max(each, default=0.0) for each in values)
    columns = [
        f'<div class="model">{head}{strip(reading.pieces, each, top)}<p class="sub">{_at_most(reading, each)}</p></div>'
        for head, reading, each in zip(heads(opened), readings, values, strict=True)
    ]
    cut = note(f"Only the first {MAX_TOKENS} tokens are read.") if any(reading.cut for reading in readings) else ""
    scale = legend(top, f"Colour: feature {feature}, {cards.label_of(row)}")
    return f'<div class="pair">{"".join(columns)}</div>{scale}{cut}'


def _at_most(reading: Reading, values: list[float]) -> str:
    largest = max(values, default=0.0)
    if largest <= 0:
        return "The feature does not fire here."
    return f"At most <b>{number(largest)}</b>, on {chip(reading.pieces[values.index(largest)])}"


def changed_here(opened: Opened, base: Reading, changes: list[Change], chosen: int | None) -> str:
    """The features that changed most on a text."""
    if not changes:
        return note("No feature fires differently: to this SAE, both models read the text alike.", "empty")
    body = "".join(_change_row(opened, base, change, change.feature == chosen) for change in changes[:SHOWN])
    finetuned = names(opened)[1]
    more = (
        f"To the left: weaker in {finetuned}; to the right: stronger. Of {len(changes):,} features that differ, those "
        "that differ by the largest part of their own maximum."
    )
    heads = ("Feature", "Where", *names(opened), "Change")
    return _table(heads, body, wide=(2, 3)) + note(more)


def _change_row(opened: Opened, base: Reading, change: Change, chosen: bool) -> str:
    most = max(float(opened.row(change.feature)["maximum"]), change.base, change.finetuned)
    values = "".join(f'<td class="id wide">{number(value)}</td>' for value in (change.base, change.finetuned))
    return (
        f"{_open_row(opened, change.feature, chosen)}<td>{chip(base.pieces[change.token])}</td>{values}"
        f"<td>{_swing(change.by / most, f'{change.by:+.2f}')}</td></tr>"
    )


def changed_overall(opened: Opened, changed: pd.DataFrame, chosen: int | None) -> str:
    """The features that changed most over all text."""
    if changed.empty:
        return note(
            "Which features changed most was not kept: <code>dvc repro</code> runs the transfer stage.", "empty"
        )
    body = "".join(
        f"{_open_row(opened, int(feature), feature == chosen)}"
        f'<td class="id">{share(row["density_base"])}</td><td class="id">{share(row["density_finetuned"])}</td>'
        f'<td class="bar">{_correlation(row["correlation"])}</td></tr>'
        for feature, row in changed.iterrows()
    )
    fires = [f"{name} <small>fires on</small>" for name in names(opened)]
    return _table(("Feature", *fires, "Does the same"), body) + note(
        "Does the same: correlation of the feature with itself across the models; 1 is always, 0 never. "
        "Ranked by how much of the models' difference a feature carries."
    )


def _correlation(value: float) -> str:
    if pd.isna(value):
        return '<span style="--part:0">silent in one</span>'
    return f'<span style="--part:{max(0.0, value):.2f}">{value:.2f}</span>'


def _table(heads: tuple[str, ...], body: str, wide: tuple[int, ...] = ()) -> str:
    """`wide`: the columns that a phone leaves out."""
    head = "".join(f'<th class="{"wide" if i in wide else ""}">{name}</th>' for i, name in enumerate(heads))
    table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll" tabindex="0"><table class="rows">{table}</table></div>'


def _open_row(opened: Opened, feature: int, chosen: bool) -> str:
    name = cards.act("pick", feature, cards.label_of(opened.row(feature)), "name")
    css = "chosen" if chosen else ""
    return f'<tr data-act="pick" data-feature="{feature}" class="{css}"><td>{name}</td>'


def _swing(part: float, words: str) -> str:
    """A bar from the middle to the left (less in the finetuned model) or to the right (more)."""
    part = max(-1.0, min(1.0, part))
    left, css = (50 + 50 * min(0.0, part), "more" if part > 0 else "less")
    bar = f'<i class="{css}" style="left:{left:.0f}%;width:{50 * abs(part):.0f}%"></i>'
    return f'<span class="swing"><span class="track">{bar}</span><b>{words}</b></span>'


def feature_card(opened: Opened, feature: int, examples: pd.DataFrame) -> str:
    """What is known of a feature in both models, and places where they part, if they were kept."""
    return (
        cards.title(opened, feature) + cards.buttons(feature) + _in_both(opened, feature)
        + _examples(opened, feature, examples)
    )  # fmt: skip


def _in_both(opened: Opened, feature: int) -> str:
    table = opened.agreement
    if table is None or feature not in table.index:
        return note("Over all text: the transfer stage did not measure this feature.")
    found = table.loc[feature]
    rows = (("Fires on", "density", share), ("Mean where it fires", "mean", number))
    body = "".join(
        f"<tr><td>{name}</td>" + "".join(
            f"<td>{shown(float(found[f'{key}_{which}']))}</td>" if f"{key}_{which}" in found else "<td>–</td>"
            for which in ("base", "finetuned")
        ) + "</tr>"
        for name, key, shown in rows
    )  # fmt: skip
    head = "".join(f"<th>{name}</th>" for name in ("Over all text", *names(opened)))
    correlation = cards.correlated(opened, feature)
    same = "It never fires in one of them." if correlation is None else _same(correlation)
    return f'<table class="metrics"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{note(same)}'


def _same(correlation: float) -> str:
    degrees = ((0.8, "Does the same in both"), (0.5, "Does much the same in both"), (0.2, "Does in part the same"))
    degree = next((words for least, words in degrees if correlation >= least), "Does hardly the same")
    return f"{degree}: correlation with itself <b>{correlation:.2f}</b>."


def _examples(opened: Opened, feature: int, examples: pd.DataFrame) -> str:
    mine = examples[examples["feature"] == feature] if len(examples) else examples
    parts = []
    for kind, title in KINDS.items():
        rows = mine[mine["kind"] == kind] if len(mine) else mine
        if len(rows):
            opening = " open" if kind == "parts" else ""
            body = "".join(_example(opened, row) for _, row in rows.iterrows())
            parts.append(f"<details{opening}><summary>{title}</summary>{body}</details>")
    return (
        "".join(parts) or f"<h5>Its strongest moments, base model</h5>{cards.examples(opened, feature, top=STRONGEST)}"
    )


def _example(opened: Opened, row: pd.Series) -> str:
    texts = shown_pieces(opened.base.tokenizer, [int(i) for i in row["ids"]])
    base, finetuned = ([float(value) for value in row[which]] for which in ("base", "finetuned"))
    top = max(*base, *finetuned)
    lines = "".join(
        f"<span>{name}</span>{strip(texts, values, top, small=True)}"
        for name, values in zip(names(opened), (base, finetuned), strict=True)
    )
    return f'<div class="twice">{lines}</div>'


def quartet(opened: Opened, prompt: str, written: Quartet, words: list[str]) -> str:
    """Four texts: a row a model, as it is and steered."""
    rows = []
    for head, texts in zip(heads(opened), (written.base, written.finetuned), strict=True):
        default, steered = pieces.columns(prompt, texts, words)
        cells = (("as it is", default), ("steered", steered))
        rows.append(head + "".join(f'<div class="sheet"><h5>{name}</h5>{text}</div>' for name, text in cells))
    return f'<div class="quartet">{"".join(rows)}</div>'
