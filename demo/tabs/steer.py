"""Turn features up or down and watch what the model writes, beside what it writes without."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import limits
from demo.asked import Asked, numeral
from demo.inputs import prompt_box, unchecked
from demo.limits import Refused
from demo.page import PRIVATE
from demo.steering import pieces, pushes
from demo.steering.ask import PROMPT, Ask, Source
from demo.steering.by_features import ByFeatures
from demo.steering.pairs import EXAMPLE, MOST_IN_ADDRESS
from demo.steering.panel import Panel
from demo.steering.rows import ABOUT_MODES, Rows
from demo.steering.settings import Settings
from demo.steering.sheets import Sheets
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.analysis.steering import Push
from sae_tools.reports.render import note

BY = [("Push features", "features"), ("Push along a direction from pairs of texts", "pairs")]
STRENGTH = f"Strength is in typical activations' lengths: {pushes.FIRM} is a firm push, far more breaks the text."
INTRODUCTION = (
    "Turn a feature up or down: one text is written twice, as the model is and with your push, from the same seed."
)
STOPPED = note("Stopped.")


class Steer(Tab):
    id = "steer"
    title = "Steer"

    def lay_out(self) -> None:
        page = self.page
        self.begin = gr.State(None, render=False)
        """Another value than before: write with the pushes that were just put into the rows."""
        gr.HTML(note(INTRODUCTION), padding=False)
        self.by = unchecked(gr.Radio(BY, value="features", show_label=False, container=False, elem_id="steer-by"))
        with gr.Column(elem_id="by-features") as self.by_features:
            self.suggestions = page.clickable("", elem_id="suggestions")
            self.rows = Rows(page)
            self._lay_out_more()
        with gr.Column(visible=False, elem_id="by-pairs") as self.by_pairs:
            self.panel = Panel(page)
        with gr.Row(elem_classes="ask"):
            prompt = prompt_box(PROMPT, "Text to continue", "steer-prompt")
            self.run = gr.Button("Write both", variant="primary", scale=1, min_width=110, elem_id="steer-run")
            self.stop = gr.Button("Stop", scale=1, min_width=70, elem_id="stop")
        self.sheets = Sheets(page)
        with gr.Accordion("Settings: length, temperature, seed, where", open=False, elem_id="settings"), gr.Row():
            self.settings = Settings(prompt)
        self.sheets.lay_out_folds(page)

    def _lay_out_more(self) -> None:
        with gr.Row(elem_id="add-push"):
            self.added = gr.Textbox(
                label="Feature id", show_label=False, container=False, placeholder="Feature id", max_length=9, scale=0,
                min_width=110, elem_id="added",
            )  # fmt: skip
            self.add = gr.Button("+ Add", size="sm", min_width=70, scale=0, elem_id="add")
            self.kept = self.page.clickable("", elem_id="from-basket")
        gr.HTML(note(f"{ABOUT_MODES} {STRENGTH}"), elem_id="modes-note", padding=False)

    @property
    def inputs(self) -> list[Any]:
        """What `_asked` takes."""
        return [self.by, *self.rows.inputs, *self.panel.inputs, *self.settings.inputs]

    @property
    def chosen(self) -> list[Any]:
        """What is filled where other features are chosen."""
        return [*self.rows.outputs, self.by, self.by_features, self.by_pairs, self.begin]

    @property
    def filled(self) -> list[Any]:
        parts = [*self.panel.filled, *self.settings.inputs, *self.sheets.outputs]
        return [*self.chosen, self.suggestions, *parts]

    def wire(self) -> None:
        page, sheets = self.page, self.sheets
        self.begin.render()  # outside the tab: inside, Gradio's page takes it for changed when the tab is first seen
        outputs = [*sheets.outputs, page.address]
        writing: list[Any] = []
        # At once: Gradio would else wait for the end of the one before, which was cancelled and tells of none.
        begun = page.on(
            self.begin.change, self._begin, [self.begin, *self.inputs], outputs, "write", trigger_mode="multiple"
        )
        writing.append(begun)
        for trigger in (self.settings.prompt.submit, self.run.click):
            writing.append(page.on(trigger, self._write, self.inputs, outputs, "write", cancels=[*writing]))
        sweeping = page.on(sheets.run_sweep.click, self._sweep, self.inputs, sheets.of_sweep, "write")
        self.stop.click(
            lambda: STOPPED, None, sheets.note, cancels=[*writing, sweeping], queue=False, show_progress="hidden",
            **PRIVATE,
        )  # fmt: skip
        chosen = [*self.chosen, page.address]
        page.on(page.steered.change, self._steered, [page.steered], [*chosen, page.steered], cancels=writing)
        page.on_click(self.suggestions, self._try, [], chosen, cancels=writing)
        page.on(self.panel.become.click, self._become, self.panel.inputs, chosen, "read", cancels=writing)
        page.on(self.by.input, self._turn, [self.by], [self.by_features, self.by_pairs])
        for trigger in (page.basket.change, *page.opened):
            page.on(trigger, self._kept, [page.basket], [self.kept])
        self.panel.wire()
        self._wire_rows()

    def _wire_rows(self) -> None:
        page, rows = self.page, self.rows
        outputs = [*rows.outputs, page.address]
        for i, remover in enumerate(rows.removers):
            page.on(remover.click, functools.partial(self._remove, i), rows.inputs, outputs)
        for trigger in (self.add.click, self.added.submit):
            page.on(trigger, self._add, [self.added, *rows.inputs], [*outputs, self.added])
        page.on_click(self.kept, self._add_kept, rows.inputs, outputs)
        for part in (*(mode.input for mode in rows.modes), *(strength.release for strength in rows.strengths)):
            page.on(part, self._moved, rows.inputs, [*rows.strengths, page.address], trigger_mode="always_last")

    def show(self, opened: Opened, asked: Asked) -> View:
        """What the address asks for, else a feature that steers well and what it was seen to do."""
        suggested = pushes.suggested(opened)
        first = [pushes.start(opened, feature) for feature in suggested[:1]]
        shown = asked.get("push", lambda value: pushes.parsed(opened, value), first)
        by = asked.get("steer_by", lambda value: limits.choice(value, "Steer by", [name for _, name in BY]), "features")
        pairs = asked.get("pairs", lambda value: limits.text(value, "The list of pairs", MOST_IN_ADDRESS), EXAMPLE)
        settings = self.settings.show(asked)
        as_usual = shown is first and by == "features" and settings[self.settings.prompt] == PROMPT
        view = self._with(opened, shown, by) | self.panel.show(opened, pairs) | settings
        view |= self.sheets.show(opened, beforehand=as_usual)
        view[self.suggestions] = pieces.tries(opened, suggested, "try", "Try one:")
        if asked.get("tab", str, "") == self.id and (shown is not first or by == "pairs"):
            view[self.begin] = _begun(by, shown)
        return view

    def _with(self, opened: Opened, shown: list[Push], by: str = "features") -> View:
        """The rows of other pushes, in sight."""
        sight = {self.by_features: gr.update(visible=by == "features"), self.by_pairs: gr.update(visible=by == "pairs")}
        return self.rows.view(opened, shown) | {self.by: by} | sight

    def _replaced(self, opened: Opened, shown: list[Push]) -> View:
        """Other pushes, and their texts written."""
        found = pushes.checked(opened, pushes.triples(shown))
        address = self.page.at(push=pushes.written(found), steer_by=None, pairs=None)
        return self._with(opened, found) | {self.begin: _begun("features", found)} | address

    def _steered(self, opened: Opened, features: list[Any]) -> View:
        if not features:
            return {}
        ids = [limits.feature(feature, opened.d_sae) for feature in features[: limits.MAX_PUSHES]]
        # Emptied, so that the same feature may be asked for again.
        return self._replaced(opened, [pushes.start(opened, each) for each in ids]) | {self.page.steered: []}

    def _try(self, opened: Opened, data: dict[str, Any]) -> View:
        if data.get("act") != "try":
            return {}
        return self._replaced(opened, [pushes.start(opened, limits.feature(data.get("feature"), opened.d_sae))])

    def _become(self, opened: Opened, *values: Any) -> View:
        return self._replaced(opened, self.panel.pushes(opened, values))

    def _turn(self, opened: Opened, by: object) -> View:
        return {self.by_features: gr.update(visible=by != "pairs"), self.by_pairs: gr.update(visible=by == "pairs")}

    def _add(self, opened: Opened, feature: object, *values: Any) -> View:
        if feature == "":
            raise Refused("Give the id of a feature, or pick one in another tab and press Steer.")
        number = numeral(feature) if isinstance(feature, str) else feature
        push = pushes.start(opened, limits.feature(number, opened.d_sae))
        found = pushes.checked(opened, [*self.rows.raw(values), *pushes.triples([push])])
        return self.rows.view(opened, found) | self.page.at(push=pushes.written(found)) | {self.added: ""}

    def _add_kept(self, opened: Opened, data: dict[str, Any], *values: Any) -> View:
        view = self._add(opened, data.get("feature"), *values) if data.get("act") == "push" else {}
        view.pop(self.added, None)
        return view

    def _remove(self, i: int, opened: Opened, *values: Any) -> View:
        left = [entry for j, entry in enumerate(self.rows.raw(values)) if j != i]
        found = pushes.checked(opened, left) if left else []
        return self.rows.view(opened, found) | self.page.at(push=pushes.written(found))

    def _moved(self, opened: Opened, *values: Any) -> View:
        """A mode or a strength was changed: the address says so, and an ablated feature has no strength."""
        found = pushes.checked(opened, self.rows.raw(values))
        usable = [gr.update(interactive=push.mode != "ablate") for push in found]
        return dict(zip(self.rows.strengths, usable, strict=False)) | self.page.at(push=pushes.written(found))

    def _kept(self, opened: Opened, basket: object) -> View:
        mine = [entry["feature"] for entry in limits.basket(basket) if entry["sae"] == opened.name]
        mine = [feature for feature in mine if feature < opened.d_sae]
        return {self.kept: pieces.tries(opened, mine[: pushes.MOST_SUGGESTED], "push", "From your basket:")}

    def _asked(self, opened: Opened, values: tuple[Any, ...]) -> tuple[Source, Ask]:
        by = limits.choice(values[0], "Steer by", [name for _, name in BY])
        rows, settings = 1 + len(self.rows.inputs), len(values) - len(self.settings.inputs)
        ask, new_only = self.settings.read(values[settings:])
        if by == "features":
            return ByFeatures(opened, pushes.checked(opened, self.rows.raw(values[1:rows])), new_only), ask
        return self.panel.source(opened, values[rows:settings], new_only), ask

    def _begin(self, opened: Opened, begun: dict[str, Any] | None, *values: Any) -> Iterator[View]:
        """Write at once; the browser may not have filled the rows yet, so what they will hold is taken from `begun`."""
        if begun is None:
            raise Refused("Nothing to steer with was chosen yet.")
        given, most = list(values), limits.MAX_PUSHES
        given[:2] = [begun["by"], [feature for feature, _, _ in begun["pushes"]]]
        for i, (_, mode, strength) in enumerate(begun["pushes"]):
            given[2 + i], given[2 + most + i] = mode, strength
        yield from self._write(opened, *given)

    def _write(self, opened: Opened, *values: Any) -> Iterator[View]:
        source, ask = self._asked(opened, values)
        yield self.page.at(tab=self.id, **source.said, **self.settings.said(ask, source.new_only))
        yield from self.sheets.write(source, ask)

    def _sweep(self, opened: Opened, *values: Any) -> Iterator[View]:
        yield from self.sheets.sweep(*self._asked(opened, values))


def _begun(by: str, shown: list[Push]) -> dict[str, Any]:
    """Which pushes to write with, and when it was asked: to ask again is another value."""
    return {"by": by, "pushes": pushes.triples(shown), "at": time.monotonic_ns()}
