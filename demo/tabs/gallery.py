"""What a stranger sees first: concepts that the model knows, and what it writes when one is turned up."""

from __future__ import annotations

import math
from typing import Any

import gradio as gr

from demo import cards, limits
from demo.asked import Asked
from demo.showcase import Steered, by_rule, concepts, steering
from demo.tab import Tab, View
from demo.tabs.explore import EXAMPLES
from demo.words import marked, own_words
from demo.workbench import Opened
from sae_tools.analysis.store import Example
from sae_tools.models.lm import shown_pieces
from sae_tools.reports.render import escape, isolated, note, strip, visible

AT_FIRST, STEERED_AT_FIRST = 8, 6
"""Cards that are shown before the rest is unfolded."""
AROUND = 9
"""Tokens shown on either side of the one where a feature fires most."""
INTRO = (
    "<p>The concepts that a language model works with are <b>directions</b> inside it. A sparse autoencoder found {n} "
    "of them in this one, untold what to look for. Each card is one: words it fires on, and a moment where it fires. "
    "<b>Turn up</b> makes the model write with more of it.</p>"
)
TYPE = "Or type your own text, or begin with one of these:"
NONE_CHOSEN = (
    "No gallery was made for this SAE. These are features that fire on at most 5% of the tokens, {order} first, so "
    "some will mean little. <code>dvc repro</code> runs the features stage, which chooses the clearest ones."
)
NONE_STEERED = (
    "What features do when they are turned up was not tried out for this SAE; <code>dvc repro</code> runs the features "
    "stage, which does. The Steer tab tries any of them now."
)


class Gallery(Tab):
    id = "gallery"
    title = "Gallery"

    def lay_out(self) -> None:
        self._whole: dict[str, str] = {}
        self.body = self.page.clickable('<p class="empty">Opening…</p>', elem_id="gallery")

    @property
    def filled(self) -> list[Any]:
        return [self.body]

    def wire(self) -> None:
        page = self.page
        for opened in page.opened:
            page.on(opened, self._complete, [], [self.body])
        page.on_click(self.body, self._read, [], [page.prompt, page.tabs, page.address])

    def show(self, opened: Opened, asked: Asked) -> View:
        return {self.body: self._whole.get(opened.name) or gallery(opened, complete=False)}

    def _complete(self, opened: Opened) -> View:
        """Examples need the tokenizer, which comes with the model. Made once: all visitors see the same."""
        if opened.name not in self._whole:
            self._whole[opened.name] = gallery(opened, complete=True)
        return {self.body: self._whole[opened.name]}

    def _read(self, opened: Opened, data: dict[str, Any]) -> View:
        if data.get("act") != "read":
            return {}
        text = EXAMPLES[limits.whole(data.get("example"), "Example", 0, len(EXAMPLES) - 1)]
        page = self.page
        return {page.prompt: text, page.tabs: gr.Tabs(selected="explore"), **page.at(tab="explore", prompt=text)}


def gallery(opened: Opened, complete: bool) -> str:
    """The whole tab; `complete`: with examples and with marks that need the tokenizer."""
    chosen = concepts(opened)
    note_ = "" if chosen else note(NONE_CHOSEN.format(order=_order(opened)))
    shown = [_concept(opened, feature, complete) for feature in chosen or by_rule(opened)]
    return (
        f'<div class="intro">{INTRO.format(n=f"{opened.d_sae:,}")}</div>'
        f"<h3>{'Concepts this model knows' if chosen else 'Some of its features'}</h3>{note_}{_grid(shown, AT_FIRST)}"
        f'<div class="own-text"><span>{TYPE}</span>{_chips()}</div>'
        f"<h3>What happens when one is turned up</h3>{_steering(opened, complete)}"
    )


def _order(opened: Opened) -> str:
    return "the clearest concepts" if "concept" in opened.store.table.columns else "the strongest"


def _grid(shown: list[str], at_first: int, css: str = "") -> str:
    """Cards, those after the first few folded."""
    first, rest = (f'<div class="cards {css}">{"".join(part)}</div>' for part in (shown[:at_first], shown[at_first:]))
    more = len(shown) - at_first
    return first + (f"<details><summary>Show {more} more</summary>{rest}</details>" if more > 0 else "")


def _chips() -> str:
    return "".join(
        f'<button type="button" class="chip" data-act="read" data-example="{i}">{escape(_start(text))}</button>'
        for i, text in enumerate(EXAMPLES[:3])
    )


def _start(text: str) -> str:
    """Its first words."""
    return text[:32].rpartition(" ")[0] + " …"


def _name(opened: Opened, feature: int) -> str:
    """The label, as a button that opens the feature."""
    return cards.act("open", feature, cards.label_of(opened.row(feature)), "name")


def _keep(feature: int) -> str:
    return cards.act("keep", feature, cards.BUTTONS["keep"])


def _concept(opened: Opened, feature: int, complete: bool) -> str:
    found = opened.store.examples(feature)
    body = _moment(opened, feature, found[0]) if complete and found else '<div class="strip small waiting"></div>'
    turn = cards.act("steer", feature, "Turn up", "first")
    return (
        f'<article class="concept" data-act="open" data-feature="{feature}"><h4>{_name(opened, feature)}</h4>{body}'
        f'<div class="acts">{turn}{_keep(feature)}</div></article>'
    )


def _moment(opened: Opened, feature: int, example: Example) -> str:
    """Where it fires most, cut to what a card has room for."""
    start, end = max(0, example.position - AROUND), example.position + AROUND
    pieces = shown_pieces(opened.base.tokenizer, [int(i) for i in example.ids])[start:end]
    values = [float(v) for v in example.values][start:end]
    if pieces:
        pieces[0] = pieces[0].lstrip()
    return strip(pieces, values, float(opened.row(feature)["maximum"]), small=True)


def _steering(opened: Opened, complete: bool) -> str:
    shown = steering(opened)
    if not shown:
        return note(NONE_STEERED)
    same = len({(each.prompt, each.seed) for each in shown}) == 1
    seed = f" with seed {shown[0].seed}" if same else ""
    said = note(
        f"The same model, the same prompt{seed}: as it is, and with the concept added. The first text is shown, not "
        "the best; words of the concept are marked."
    )
    return said + _grid([_pushed(opened, each, complete) for each in shown], STEERED_AT_FIRST, "wide-cards")


def _pushed(opened: Opened, each: Steered, complete: bool) -> str:
    words = own_words(opened, each.feature, gained=complete)
    given = f'<span class="given">{isolated(each.prompt)}</span>'
    turn = cards.act("steer", each.feature, "Try it yourself", "first")
    return (
        f'<article class="concept" data-act="open" data-feature="{each.feature}"><h4>{_name(opened, each.feature)}</h4>'
        f'<dl class="before-after"><dt>As it is</dt><dd class="text">{given}{visible(each.default)}</dd>'
        f'<dt>Turned up</dt><dd class="text">{given}{marked(each.steered, words)}</dd></dl>'
        f'<div class="acts">{turn}{_keep(each.feature)}{_sizes(each)}</div></article>'
    )


def _sizes(each: Steered) -> str:
    """How hard it was turned up, and how often that worked."""
    parts = [f"strength {each.strength:g}"] if math.isfinite(each.strength) else []
    if math.isfinite(each.good_share):
        parts.append(f"showed in {each.good_share:.0%} of trial texts")
    return f'<small class="id">{" · ".join(parts)}</small>'
