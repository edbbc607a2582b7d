"""Everything known of one feature."""

from __future__ import annotations

import random
from typing import Any

import gradio as gr

from demo import cards, limits, plots
from demo.inputs import unchecked
from demo.limits import Refused
from demo.pieces import everything, known
from demo.pieces.label import said
from demo.pieces.strips import coloured
from demo.reading import read, remembered
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.reports.render import note

EMPTY = note("Pick a feature in Explore or Search, type an id, or take a random one.", "empty")
EXAMPLES = "Text from the training set; the stronger the colour, the more it fires. The number is its value there."


class Feature(Tab):
    id = "feature"
    title = "Feature"

    def lay_out(self) -> None:
        with gr.Row(elem_id="feature-controls"):
            self.box = unchecked(gr.Number(label="Feature id", scale=0, min_width=130, elem_id="feature-id"))
            self.go, self.back, self.on, self.any = (
                gr.Button(name, scale=0, min_width=90, size="md") for name in ("Open", "← Previous", "Next →", "Random")
            )
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=5, min_width=300):
                self.head = self.page.clickable(EMPTY, elem_id="feature-head")
                self.plot = gr.Plot(visible=False, show_label=False, elem_id="histogram")
                self.words = gr.HTML("", elem_id="feature-words")
            with gr.Column(scale=6, min_width=300):
                with gr.Row(elem_classes="ask"):
                    self.text = gr.Textbox(
                        label="Test it on your own text", placeholder="Type a few words", lines=1, max_lines=4,
                        max_length=limits.MAX_CHARACTERS, scale=6, min_width=200, elem_id="test-text",
                    )  # fmt: skip
                    self.test = gr.Button("Test", scale=1, min_width=80)
                self.tested = gr.HTML("", elem_id="tested")
                self.examples = gr.HTML("", elem_id="feature-examples")
        self.effects = gr.HTML("", elem_id="feature-effects")
        self.near = self.page.clickable("", elem_id="feature-near")

    @property
    def drawn(self) -> list[Any]:
        return [self.box, self.head, self.plot, self.words, self.tested, self.examples, self.effects, self.near]

    def wire(self) -> None:
        page = self.page
        page.on(page.feature.change, self._open, [page.feature, page.prompt, self.text], self.drawn)
        page.on(page.prompt.change, self._mark, [page.feature, page.prompt], [self.plot])
        moved = [page.feature, page.address]
        for trigger in (self.go.click, self.box.submit):
            page.on(trigger, self._go, [self.box], moved)
        page.on(self.back.click, lambda opened, feature: self._step(opened, feature, -1), [page.feature], moved)
        page.on(self.on.click, lambda opened, feature: self._step(opened, feature, 1), [page.feature], moved)
        page.on(self.any.click, self._random, [], moved)
        for trigger in (self.test.click, self.text.submit):
            page.on(trigger, self._test, [page.feature, self.text], [self.tested], "read")

    def _go(self, opened: Opened, feature: object) -> View:
        chosen = limits.feature(feature, opened.d_sae)
        return {self.page.feature: chosen, **self.page.at(feature=chosen)}

    def _step(self, opened: Opened, feature: int | None, by: int) -> View:
        """The next or the previous id; the last one is followed by the first."""
        start = limits.feature(feature, opened.d_sae) if feature is not None else -1 if by > 0 else 0
        return self._go(opened, (start + by) % opened.d_sae)

    def _random(self, opened: Opened) -> View:
        maximum = opened.store.table["maximum"]
        alive = maximum.index[maximum > 0]
        if alive.empty:
            raise Refused("Every feature of this SAE is dead.")
        return self._go(opened, int(alive[random.randrange(len(alive))]))

    def _open(self, opened: Opened, feature: int | None, prompt: object, text: object) -> View:
        if feature is None:
            return dict.fromkeys(self.drawn, "") | {
                self.box: None, self.head: EMPTY, self.plot: gr.Plot(None, visible=False)
            }  # fmt: skip
        feature = limits.feature(feature, opened.d_sae)
        row = opened.row(feature)
        dead = row["maximum"] <= 0
        return {
            self.box: feature, self.head: _head(opened, feature, dead), **self._mark(opened, feature, prompt),
            self.words: "" if dead else known.words(row) + known.scores(opened, row),
            self.tested: _tested(opened, feature, text),
            self.examples: "" if dead else _examples(opened, feature),
            self.effects: "" if dead else known.effects(opened, row),
            self.near: "" if dead else known.near(opened, row),
        }  # fmt: skip

    def _mark(self, opened: Opened, feature: int | None, prompt: object) -> View:
        """The histogram, with the largest value on the text that Explore has read."""
        if feature is None:
            return {}
        feature = limits.feature(feature, opened.d_sae)
        row = opened.row(feature)
        if row["maximum"] <= 0:
            return {self.plot: gr.Plot(None, visible=False)}
        reading = remembered(opened, prompt) if isinstance(prompt, str) else None
        here = max(reading.of(feature), default=0.0) if reading else 0.0
        return {self.plot: gr.Plot(plots.histogram(row["histogram"], row["maximum"], here), visible=True)}

    def _test(self, opened: Opened, feature: int | None, text: object) -> View:
        if feature is None:
            raise Refused("Pick a feature first.")
        read(opened, limits.prompt(text))
        return {self.tested: _tested(opened, limits.feature(feature, opened.d_sae), text)}


def _tested(opened: Opened, feature: int, text: object) -> str:
    """The feature on a text of the visitor's own, where that has been read."""
    reading = remembered(opened, text) if isinstance(text, str) else None
    return coloured(opened, reading, feature) if reading else ""


def _examples(opened: Opened, feature: int) -> str:
    return f"<h4>Where it fires</h4>{note(EXAMPLES)}{cards.examples(opened, feature)}"


def _head(opened: Opened, feature: int, dead: bool) -> str:
    """Name, what can be done with it, its key numbers."""
    copy = '<button type="button" class="act" data-copy="">Copy link</button>'
    png = "" if dead else '<button type="button" class="act" data-png="#histogram">PNG of the histogram</button>'
    acts = "".join(cards.act(what, feature, cards.BUTTONS[what]) for what in ("steer", "keep"))
    return (
        cards.title(opened, feature) + said(opened.row(feature))
        + f'<div class="acts">{acts}{copy}</div>' + cards.facts(opened, feature)
        + f'<p class="take">Take along: {everything.links(opened, feature)}{png}</p>'
    )  # fmt: skip
