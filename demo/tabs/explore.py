"""Type a text: which features fire on it?"""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo import cards, limits
from demo.asked import Asked
from demo.reading import Firing, Reading, read
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.reports.render import chip, legend, note, number, strip

EXAMPLES = (
    "Once upon a time there was a little dog named Max. He loved to run in the park.",
    "Lily was sad because her red ball was lost. Her mom gave her a big hug.",
    '"Can I play with you?" asked the boy. The girl smiled and said yes.',
    "ROMEO: O, speak again, bright angel! for thou art as glorious to this night.",
)
ROWS = 20


class Explore(Tab):
    id = "explore"
    title = "Explore"

    def lay_out(self) -> None:
        with gr.Row(elem_classes="ask"):
            self.box = prompt_box(EXAMPLES[0], "Prompt", "prompt")
            self.run = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="run")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=6, min_width=300):
                self.strip = gr.HTML('<p class="empty">Opening the model…</p>', elem_id="strip")
                self.table = self.page.clickable("", elem_id="table")
            with gr.Column(scale=5, min_width=300, elem_id="card"):
                self.card = self.page.clickable("", elem_id="card-body")

    @property
    def filled(self) -> list[Any]:
        return [self.box]

    def wire(self) -> None:
        page = self.page
        seen = [page.prompt, page.feature, page.address, self.strip, self.table]
        for trigger in (self.run.click, self.box.submit):
            page.on(trigger, self._run, [self.box, page.feature], seen, "read")
        for opened in page.opened:
            page.on(opened, self._run, [self.box, page.feature], seen, "read")
        page.on(page.prompt.change, self._sent, [page.prompt, self.box], [self.box, *seen], "read")
        page.on(
            page.feature.change, self._pick, [page.prompt, page.feature], [self.strip, self.table, self.card], "read"
        )

    def show(self, opened: Opened, asked: Asked) -> View:
        return {self.box: asked.get("prompt", limits.prompt, EXAMPLES[0])}

    def _run(self, opened: Opened, text: object, feature: int | None) -> View:
        """Read the text; where no feature is chosen, choose the first of the table."""
        page, prompt = self.page, limits.prompt(text)
        reading = read(opened, prompt)
        ranked = reading.firings()
        if feature is None and ranked:
            feature = ranked[0].feature
        return {
            page.prompt: prompt, page.feature: feature, **page.at(prompt=prompt, feature=feature),
            self.strip: _strip(opened, reading, feature), self.table: _table(opened, reading, ranked, feature),
        }  # fmt: skip

    def _sent(self, opened: Opened, prompt: str, text: object) -> View:
        """A text that another tab wants read."""
        return {} if prompt in ("", text) else {self.box: prompt, **self._run(opened, prompt, None)}

    def _pick(self, opened: Opened, prompt: str, feature: int | None) -> View:
        if feature is None or not prompt:
            return {self.card: note("Pick a feature in the table to see what it is.", "empty")}
        reading = read(opened, prompt)
        return {
            self.strip: _strip(opened, reading, feature),
            self.table: _table(opened, reading, reading.firings(), feature),
            self.card: cards.title(opened, feature) + cards.buttons(feature) + cards.facts(opened, feature)
            + cards.examples(opened, feature, top=5),
        }  # fmt: skip


def prompt_box(text: str, label: str, name: str) -> gr.Textbox:
    """A box in which Enter runs and Shift+Enter breaks the line."""
    return gr.Textbox(
        text, label=label, lines=1, max_lines=6, max_length=limits.MAX_CHARACTERS, scale=6, min_width=240, elem_id=name
    )


def _strip(opened: Opened, reading: Reading, feature: int | None) -> str:
    cut = note(f"Only the first {len(reading.pieces)} tokens were read.") if reading.cut else ""
    if feature is None:
        values = reading.strongest()
        top = max(values, default=0.0)
        return strip(reading.pieces, values, top) + legend(top, "strongest feature on each token") + cut
    row = opened.row(feature)
    values = reading.of(feature)
    name = f"feature {feature}, {cards.label_of(row)}"
    here = f"at most <b>{number(max(values))}</b> here" if any(values) else "<em>does not fire on this prompt</em>"
    return strip(reading.pieces, values, row["maximum"]) + legend(row["maximum"], f"{name}: {here}") + cut


def _table(opened: Opened, reading: Reading, firings: list[Firing], chosen: int | None) -> str:
    if not firings:
        return note("No feature to show: none fires on this prompt.")
    body = "".join(_row(opened, reading, firing, firing.feature == chosen) for firing in firings[:ROWS])
    head = "".join(f"<th>{name}</th>" for name in ("Feature", "Strongest on", "Value here"))
    return f'<table class="rows"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _row(opened: Opened, reading: Reading, firing: Firing, chosen: bool) -> str:
    row = opened.row(firing.feature)
    part = min(1.0, firing.value / row["maximum"]) if row["maximum"] > 0 else 1.0
    bar = f'<span style="--part:{part:.2f}" title="{part:.0%} of its maximum">{number(firing.value)}</span>'
    return (
        f'<tr data-act="pick" data-feature="{firing.feature}" class="{"chosen" if chosen else ""}">'
        f"<td>{cards.act('pick', firing.feature, cards.label_of(row), 'name')}</td>"
        f'<td>{chip(reading.pieces[firing.token])}</td><td class="bar">{bar}</td></tr>'
    )
