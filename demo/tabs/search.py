"""Find features by what they mean, how often they fire, and how they score."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import gradio as gr
import pandas as pd

from demo import cards, limits
from demo.asked import Asked
from demo.inputs import unchecked
from demo.limits import Refused
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.analysis.search import MATCH, Wanted, spellings
from sae_tools.reports.render import isolated, note, number, share

ROWS = 40
WHERE = {
    "anywhere": "Anywhere", "label": "Their label", "fires": "Words they fire on",
    "promotes": "Words they make likelier",
}  # fmt: skip
SORTS = {
    MATCH: ("Best match", MATCH, False), "concept": ("Clearest concept", "concept", False),
    "steering": ("Best to steer with", "steering", False), "detection": ("Best label", "detection", False),
    "often": ("Fires most often", "density", False), "seldom": ("Fires least often", "density", True),
    "maximum": ("Strongest", "maximum", False),
}  # fmt: skip
"""(words, column, whether the smallest comes first) by name in the address."""
SCORES = {
    "concept": ("Concept score", "is it one concept?"),
    "steering": ("Steering score", "does a push show?"),
    "detection": ("Label score", "does the label hold?"),
}
FILTERS = ("low", "high", *SCORES)
"""Number boxes, by name in the address: density from and to, in percent, and the least of each score."""


class Search(Tab):
    id = "search"
    title = "Search"

    def lay_out(self) -> None:
        with gr.Row(elem_classes="ask", elem_id="search-ask"):
            self.text = gr.Textbox(
                label="Find features about", placeholder="dog, rain, said …   (empty: all of them)", max_lines=1,
                max_length=limits.MAX_SEARCH, scale=5, min_width=220, elem_id="search-text",
            )  # fmt: skip
            self.where = _choices(WHERE, "Look in", "search-where")
            self.sort = _choices({name: words for name, (words, *_) in SORTS.items()}, "Sort by", "search-sort")
            self.run = gr.Button("Search", variant="primary", scale=1, min_width=90, elem_id="search-run")
        with gr.Accordion("Narrow down", open=False, elem_id="search-narrow"), gr.Row():
            self.numbers = {
                "low": _number("Density from, %"), "high": _number("Density to, %"),
                **{name: _number(f"{words} from") for name, (words, _) in SCORES.items()},
            }  # fmt: skip
        self.found = self.page.clickable('<p class="empty">Opening…</p>', elem_id="search-found")

    @property
    def _asked(self) -> list[Any]:
        return [self.text, self.where, self.sort, *self.numbers.values()]

    @property
    def filled(self) -> list[Any]:
        return self._asked

    def wire(self) -> None:
        page, seen = self.page, [self.found, self.page.address]
        for trigger in (self.run.click, self.text.submit, self.where.input, self.sort.input):
            page.on(trigger, self._search, self._asked, seen)
        for box in self.numbers.values():
            page.on(box.submit, self._search, self._asked, seen)
        for opened in page.opened:
            page.on(opened, self._first, self._asked, [self.found])
        page.on_click(self.found, self._turn, self._asked, seen)

    def show(self, opened: Opened, asked: Asked) -> View:
        table = opened.store.table
        boxes: View = {
            self.text: asked.get("q", limits.search, ""),
            self.where: asked.get("in", lambda value: limits.choice(value, "in", list(WHERE)), "anywhere"),
            self.sort: gr.Dropdown(
                [(words, name) for name, (words, column, _) in SORTS.items() if column in (MATCH, *table.columns)],
                value=asked.get("sort", lambda value: limits.choice(value, "sort", list(SORTS)), MATCH),
            ),
        }
        for name, box in self.numbers.items():
            value = asked.get(name, partial(_typed, name), None)
            there = name not in SCORES or name in table.columns
            boxes[box] = gr.Number(value=value, visible=there, info=_range(table, name) if there else "")
        return boxes

    def _first(self, opened: Opened, *asked: object) -> View:
        return {self.found: _results(opened, _wanted(opened, *asked), 0)}

    def _search(self, opened: Opened, *asked: object, start: int = 0) -> View:
        wanted = _wanted(opened, *asked)
        where, sort, *numbers = asked[1:]
        at = {
            "q": wanted.text, "in": None if where == "anywhere" else where, "sort": None if sort == MATCH else sort,
            **{name: _told(value) for name, value in zip(FILTERS, numbers, strict=True)},
        }  # fmt: skip
        return {self.found: _results(opened, wanted, start), **self.page.at(**at)}

    def _turn(self, opened: Opened, data: dict[str, Any], *asked: object) -> View:
        if data.get("act") != "turn":
            return {}
        return self._search(opened, *asked, start=limits.whole(data.get("start"), "Row", 0, opened.d_sae))


def _choices(words: dict[str, str], label: str, name: str) -> Any:
    """A box of choices, shown by their words; the first one is chosen."""
    pairs = [(shown, value) for value, shown in words.items()]
    box = gr.Dropdown(pairs, value=pairs[0][1], label=label, filterable=False, scale=2, min_width=150, elem_id=name)
    return unchecked(box)


def _number(label: str) -> Any:
    return unchecked(gr.Number(None, label=label, min_width=150))


def _typed(name: str, text: str) -> float:
    try:
        return limits.finite(float(text), name, 0, 1e6)
    except ValueError:
        raise Refused(f"{name} must be a number, not {text[:20]!r}.") from None


def _told(value: object) -> str | None:
    return f"{value:g}" if isinstance(value, int | float) else None


def _range(table: pd.DataFrame, name: str) -> str:
    """What a number box is about, and the values that there are."""
    if name not in SCORES:
        return "of all tokens, where it fires"
    largest = table[name].max()
    return f"{SCORES[name][1]} Up to {number(largest)}" if math.isfinite(largest) else SCORES[name][1]


def _wanted(opened: Opened, text: object, where: object, sort: object, *numbers: object) -> Wanted:
    """What the boxes ask for, checked."""
    columns = opened.store.table.columns
    words = limits.search(text)
    _, column, rising = SORTS[limits.choice(sort, "Sort by", list(SORTS))]
    if column == MATCH and not words:
        column = next(name for name in ("concept", "maximum") if name in columns)
    if column not in (MATCH, *columns):
        raise Refused(
            f"This SAE's features have no {column} score: `dvc repro` runs the features stage, which adds it."
        )
    bounds = {
        name: limits.finite(value, name, 0, 1e6)
        for name, value in zip(FILTERS, numbers, strict=True)
        if value is not None and (name not in SCORES or name in columns)
    }
    least = {name: bounds[name] for name in SCORES if name in bounds}
    least |= {"density": bounds["low"] / 100} if "low" in bounds else {}
    most = {"density": bounds["high"] / 100} if "high" in bounds else {}
    place: Any = limits.choice(where, "Look in", list(WHERE))
    return Wanted(words, place, least, most, column, rising)


def _results(opened: Opened, wanted: Wanted, start: int) -> str:
    finder = opened.finder
    found = finder.find(wanted, lambda word: spellings(opened.base.tokenizer, word))
    missing = _missing(opened, wanted)
    if found.empty:
        return note(_nothing(opened, wanted), "empty") + missing
    start = start if start < len(found) else 0
    shown = found.iloc[start : start + ROWS]
    return _count(wanted, len(found), start, len(shown)) + missing + _table(opened, wanted, shown)


def _nothing(opened: Opened, wanted: Wanted) -> str:
    about = f" about “{isolated(wanted.text)}”" if wanted.text else ""
    advice = "Try another word, or fewer." if wanted.text else "Widen the ranges."
    if wanted.least or wanted.most:
        advice = "Widen the ranges, or try another word."
    return f"None of {opened.d_sae:,} features is{about} as asked. {advice}"


def _missing(opened: Opened, wanted: Wanted) -> str:
    """What an older features stage did not keep, where the search would need it."""
    if wanted.text and wanted.where == "fires" and opened.finder.fires is None:
        return note(
            "No words were kept for this SAE's features: `dvc repro` runs the features stage, which keeps them."
        )
    return ""


def _count(wanted: Wanted, total: int, start: int, shown: int) -> str:
    pages = []
    if start > 0:
        pages.append(_turning(max(0, start - ROWS), "← Previous"))
    if start + shown < total:
        pages.append(_turning(start + shown, "Next →"))
    about = f" about “{isolated(wanted.text)}”" if wanted.text else ""
    which = f"{start + 1:,}–{start + shown:,} of " if shown < total else ""
    words = f"{which}{total:,} feature{'' if total == 1 else 's'}{about}"
    return f'<div class="found-count"><span>{words}</span><span class="acts">{"".join(pages)}</span></div>'


def _turning(start: int, words: str) -> str:
    return f'<button type="button" class="act" data-act="turn" data-start="{start}">{words}</button>'


def _table(opened: Opened, wanted: Wanted, shown: pd.DataFrame) -> str:
    table = opened.store.table
    head = {"Feature": "", "Id": "wide"}
    if wanted.text and shown["fires"].any():
        head["Fires on it"] = ""
    if wanted.text and shown["promotes"].any():
        head["Likelier"] = "wide" if "Fires on it" in head else ""
    head["Of all tokens"] = "wide"
    scores = [name for name in SCORES if name in table.columns]
    head |= {SCORES[name][0]: "wide" for name in scores}
    head[""] = ""
    body = "".join(_row(opened, row._asdict(), head, scores) for row in shown.itertuples())
    titles = "".join(f'<th class="{css}">{name}</th>' for name, css in head.items())
    return f'<table class="rows"><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>'


def _row(opened: Opened, match: dict[str, Any], head: dict[str, str], scores: list[str]) -> str:
    feature = int(match["Index"])
    row = opened.store.table.loc[feature].to_dict()
    cells = [
        f"<td>{cards.act('open', feature, cards.label_of(row), 'name')}</td>",
        f'<td class="id wide">{feature}</td>',
    ]
    if "Fires on it" in head:
        part = f'<span style="--part:{match["fires"]:.2f}">{share(match["fires"])}</span>'
        cells.append(f'<td class="bar">{part if match["fires"] else ""}</td>')
    if "Likelier" in head:
        gain = f"+{share(match['promotes']) if opened.finder.measured else number(match['promotes'])}"
        cells.append(f'<td class="{head["Likelier"]} id">{gain if match["promotes"] else ""}</td>')
    cells.append(f'<td class="wide id">{share(row["density"])}</td>')
    for name in scores:
        value = cards.known(row, name)
        cells.append(f'<td class="wide id">{"–" if value is None else number(value)}</td>')
    keep = cards.act("keep", feature, '☆<span class="unseen"> Keep</span>', "star")
    cells.append(f'<td class="end">{keep}</td>')
    return f'<tr data-act="open" data-feature="{feature}">{"".join(cells)}</tr>'
