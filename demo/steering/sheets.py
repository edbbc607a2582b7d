"""What is written: the two texts side by side, and below them the folds that tell more about the change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import plots
from demo.page import Page
from demo.steering import pieces
from demo.steering.ask import PROMPT, Ask, Source, both, changes, swept
from demo.steering.snippet import snippet
from demo.tab import View
from demo.words import fired_on
from demo.workbench import Opened
from demo.writing import Written
from sae_tools.reports.render import note

READY = note("Press <b>Write both</b> first.")
BEFOREHAND = note(
    "Written beforehand, with the first seed. Press <b>Write both</b> to see it grow, then move a slider."
)
COPY_LINK = '<div class="acts"><button type="button" class="act" data-copy="">Copy link</button></div>'
ABOUT_SWEEP = "How much of it is in the text, and how unlikely the text becomes to the model as it is."


class Sheets:
    """Both texts, their note and the folds."""

    def __init__(self, page: Page) -> None:
        with gr.Row(elem_classes="columns sheets"):
            self.default, self.steered = _sheet("Default", "default-text"), _sheet("Steered", "steered-text")
        with gr.Row(elem_classes="actions"):
            self.note = gr.HTML(READY, elem_id="steer-note")
            page.clickable(COPY_LINK, elem_id="copy-link")

    def lay_out_folds(self, page: Page) -> None:
        """What is not needed at once."""
        with gr.Accordion("Next-token changes", open=False, elem_id="changes"):
            self.changes = gr.HTML(READY, padding=False)
        with gr.Accordion("Strength sweep", open=False, elem_id="sweep"):
            with gr.Row(elem_classes="actions"):
                self.run_sweep = gr.Button(
                    "Write at five strengths", size="sm", scale=0, min_width=170, elem_id="sweep-run"
                )
                gr.HTML(note(ABOUT_SWEEP))
            self.curves = gr.Plot(show_label=False, visible=False, elem_id="curves")
            self.swept = gr.HTML("", elem_id="swept", padding=False)
        with gr.Accordion("As Python", open=False, elem_id="python"):
            self.code = page.clickable(READY)

    @property
    def outputs(self) -> list[Any]:
        """What `show` and `write` fill."""
        return [self.default, self.steered, self.note, self.changes, self.code, *self.of_sweep]

    @property
    def of_sweep(self) -> list[Any]:
        """What `sweep` fills."""
        return [self.swept, self.curves]

    def show(self, opened: Opened, beforehand: bool) -> View:
        """Nothing written yet, or what the features stage wrote with the first feature of its gallery."""
        empty = {self.default: "", self.steered: "", self.note: READY, self.changes: READY, self.code: READY}
        return empty | self._no_sweep() | (self._beforehand(opened) if beforehand else {})

    def _beforehand(self, opened: Opened) -> View:
        entry: dict[str, Any] = next(iter(opened.store.gallery.get("steering", [])), {})
        if entry.get("prompt") != PROMPT or not entry.get("steered"):
            return {}
        default, steered = str(entry["default"]), str(entry["steered"])
        same = next((i for i, (a, b) in enumerate(zip(default, steered, strict=False)) if a != b), len(default))
        words = fired_on(opened.row(int(entry["feature"])))
        texts = pieces.columns(PROMPT, Written(default, steered, same, ([], [])), words)
        return {self.default: texts[0], self.steered: texts[1], self.note: BEFOREHAND}

    def _no_sweep(self) -> View:
        return {self.swept: "", self.curves: gr.update(value=None, visible=False)}

    def write(self, source: Source, ask: Ask) -> Iterator[View]:
        """Both texts, growing side by side, then what there is to say of them."""
        first = {self.changes: pieces.changes(changes(source, ask)), self.code: pieces.code(snippet(source, ask))}
        yield first | {self.note: note(f"{source.told}. Writing…")} | self._no_sweep()
        written = None
        for written in both(source, ask):
            default, steered = pieces.columns(ask.prompt, written, source.words)
            yield {self.default: default, self.steered: steered}
        if written is not None:
            yield {self.note: pieces.ending(source, written)}

    def sweep(self, source: Source, ask: Ask) -> Iterator[View]:
        """The text at five strengths, then two curves."""
        yield self._no_sweep() | {self.swept: note("Writing…")}
        for table in swept(source, ask):
            yield {self.swept: pieces.swept(table, ask, source.words)}
        yield {self.curves: gr.update(value=plots.strengths(table, source.measured), visible=True)}


def _sheet(title: str, name: str) -> gr.HTML:
    with gr.Column(min_width=260, elem_classes="sheet"):
        gr.HTML(f"<h4>{title}</h4>", padding=False)
        return gr.HTML("", elem_id=name, padding=False)
