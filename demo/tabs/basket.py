"""Features that a visitor keeps, in the browser: to come back to, to steer with together, to take along."""

from __future__ import annotations

import html
import json
from typing import Any
from urllib.parse import urlencode

import gradio as gr

from demo import cards, exports, limits
from demo.limits import Refused
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.reports.render import escape, isolated, note

Entry = dict[str, Any]
EMPTY = "Nothing is kept yet. A click on ☆ Keep, wherever a feature is shown, puts it here; this browser keeps it."
MAX_LOADED = 20_000
"""Characters of a basket that is put back."""


class Basket(Tab):
    id = "basket"
    title = "Basket"

    def lay_out(self) -> None:
        self.body = self.page.clickable(note(EMPTY, "empty"), elem_id="basket")
        with gr.Accordion("Put a basket back", open=False, elem_id="basket-load"):
            self.text = gr.Textbox(
                label="A basket as JSON", placeholder='[{"sae": "topk", "feature": 12, "label": "dog · cat"}]', lines=3,
                max_lines=8, max_length=MAX_LOADED, elem_id="basket-json",
            )  # fmt: skip
            self.load = gr.Button("Add these", elem_id="basket-add")

    def wire(self) -> None:
        page = self.page
        for trigger in (page.basket.change, *page.opened):
            page.on(trigger, self._show, [page.basket], [page.kept, self.body])
        page.on(self.load.click, self._load, [self.text, page.basket], [page.basket, self.text])
        page.on_click(self.body, self._act, [page.basket], [page.basket, page.steered, page.tabs, page.address])

    def _show(self, opened: Opened, basket: object) -> View:
        entries = limits.basket(basket)
        mine = json.dumps([entry["feature"] for entry in entries if entry["sae"] == opened.name])
        said = f'<i hidden data-kept="{html.escape(mine)}" data-count="{len(entries)}"></i>'
        return {self.page.kept: said, self.body: _table(opened, entries, self.page.names)}

    def _act(self, opened: Opened, data: dict[str, Any], basket: object) -> View:
        page, entries = self.page, limits.basket(basket)
        match data.get("act"):
            case "empty":
                return {page.basket: []}
            case "drop":
                place = limits.whole(data.get("place"), "Place", 0, limits.MAX_BASKET)
                return {page.basket: [entry for i, entry in enumerate(entries) if i != place]}
            case "steer-all":
                mine = _mine(opened, entries)[: limits.MAX_PUSHES]
                if not mine:
                    raise Refused("No feature of this SAE is in the basket.")
                return {page.steered: mine, page.tabs: gr.Tabs(selected="steer"), **page.at(tab="steer")}
        return {}

    def _load(self, opened: Opened, text: object, basket: object) -> View:
        entries = limits.basket(basket)
        known = {(entry["sae"], entry["feature"]) for entry in entries}
        added = [entry for entry in read(text) if (entry["sae"], entry["feature"]) not in known]
        if len(entries) + len(added) > limits.MAX_BASKET:
            raise Refused(
                f"The basket holds {limits.MAX_BASKET} features; these would make {len(entries) + len(added)}."
            )
        return {self.page.basket: [*entries, *added], self.text: ""}


def read(text: object) -> list[Entry]:
    """A basket's entries from JSON as it was taken along, each once.

    Raises:
        Refused: it is no such JSON, or holds no feature.
    """
    if not isinstance(text, str) or not text.strip():
        raise Refused("Paste a basket first: the JSON that was saved here.")
    if len(text) > MAX_LOADED:
        raise Refused(f"The basket has {len(text):,} characters; at most {MAX_LOADED:,} are read.")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise Refused("This is no JSON. Paste the whole file that was saved here.") from None
    entries = limits.basket(value)
    if not entries:
        raise Refused('No feature is in it. A basket is a list of {"sae": name, "feature": number, "label": text}.')
    return list({(entry["sae"], entry["feature"]): entry for entry in entries}.values())


def _mine(opened: Opened, entries: list[Entry]) -> list[int]:
    """The features among them that the opened SAE has."""
    return [e["feature"] for e in entries if e["sae"] == opened.name and e["feature"] < opened.d_sae]


def _table(opened: Opened, entries: list[Entry], names: list[str]) -> str:
    if not entries:
        return note(EMPTY, "empty")
    body = "".join(_row(opened, place, entry, names) for place, entry in enumerate(entries))
    head = '<tr><th>Feature</th><th class="wide">Id</th><th class="wide">SAE</th><th></th></tr>'
    return f'{_doing(opened, entries)}<table class="rows"><thead>{head}</thead><tbody>{body}</tbody></table>'


def _doing(opened: Opened, entries: list[Entry]) -> str:
    """What one can do with all of them."""
    mine = _mine(opened, entries)
    n = min(len(mine), limits.MAX_PUSHES)
    which = "the first " if n < len(mine) else "all " if n == len(entries) else ""
    words = "Steer with it" if n == len(entries) == 1 else f"Steer with {which}{n}"
    words += "" if len(mine) == len(entries) else f" of {escape(opened.name)}"
    steer = f'<button type="button" class="act first" data-act="steer-all">{words}</button>' if n else ""
    as_json = json.dumps(entries, ensure_ascii=False, indent=1)
    links = exports.data_link("basket.json", "application/json", as_json, "Save as JSON")
    links += exports.data_link(
        "basket.csv", "text/csv", exports.csv([_told(opened, e) for e in entries]), "Save as CSV"
    )
    return f'<div class="acts">{steer}{links}<button type="button" class="act" data-act="empty">Empty</button></div>'


def _told(opened: Opened, entry: Entry) -> Entry:
    """An entry as a row of a file; of the opened SAE's features also the main figures."""
    here = _mine(opened, [entry])
    row = opened.row(entry["feature"]) if here else {}
    figures = {name: cards.known(row, name) for name in ("density", "maximum", "detection", "concept", "steering")}
    return {**entry, **figures}


def _row(opened: Opened, place: int, entry: Entry, names: list[str]) -> str:
    feature, sae = entry["feature"], entry["sae"]
    label = isolated(entry["label"]) if entry["label"] else '<span class="mark">no label</span>'
    drop = f'<button type="button" class="act" data-act="drop" data-place="{place}">Remove</button>'
    if _mine(opened, [entry]):
        name = cards.act("open", feature, label, "name")
        doing = cards.act("open", feature, "Open") + cards.act("steer", feature, "Steer") + drop
    elif sae in names and sae != opened.name:
        link = escape(urlencode({"sae": sae, "feature": feature, "tab": "feature"}, errors="replace"))
        name, doing = label, f'<a class="act" href="?{link}">Open in {escape(sae)}</a>{drop}'
    else:
        name, doing = f"{label} <small>This page has no such feature.</small>", drop
    return (
        f'<tr><td>{name}</td><td class="id wide">{feature}</td><td class="wide">{isolated(sae)}</td>'
        f'<td><div class="acts">{doing}</div></td></tr>'
    )
