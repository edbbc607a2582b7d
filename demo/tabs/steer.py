"""Turn features up or down and watch what the model writes, beside what it writes without."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import limits, plots
from demo.asked import Asked, numeral
from demo.page import PRIVATE, Page
from demo.steering import pieces, pushes
from demo.steering.ask import PROMPT, Ask, Source, both, changes, swept
from demo.steering.by_features import ByFeatures
from demo.steering.pairs import EXAMPLE
from demo.steering.panel import Panel
from demo.steering.rows import ABOUT_MODES, Rows, unchecked
from demo.steering.snippet import snippet
from demo.tab import Tab, View
from demo.tabs.explore import prompt_box
from demo.workbench import Opened
from demo.writing import Written
from sae_tools.reports.render import note

BY = [("Features", "features"), ("A direction from pairs of texts", "pairs")]
WHERE = [("Everywhere", "everywhere"), ("New tokens only", "new")]
STRENGTH = f"Strength is in typical activations' lengths: {pushes.FIRM} is a firm push, far more breaks the text."
STOPPED = note("Stopped.")
READY = note("Press <b>Write both</b>: one seed, so only the push makes a difference.")
BEFOREHAND = note(
    "Written beforehand, with the first seed. Press <b>Write both</b> to see it grow, then move the slider."
)
COPY_LINK = '<button type="button" class="act" data-copy="">Copy link</button>'
MOST_IN_ADDRESS = 1_500


class Steer(Tab):
    id = "steer"
    title = "Steer"

    def lay_out(self) -> None:
        self.begin = gr.State(0)
        """Another number: write, now that everything is in place."""
        self.by = unchecked(gr.Radio(BY, value="features", show_label=False, container=False, elem_id="steer-by"))
        with gr.Column(elem_id="by-features") as self.by_features:
            self._lay_out_features(self.page)
        with gr.Column(visible=False, elem_id="by-pairs") as self.by_pairs:
            self.panel = Panel(self.page)
        with gr.Row(elem_classes="ask"):
            self.prompt = prompt_box(PROMPT, "Text to continue", "steer-prompt")
            self.run = gr.Button("Write both", variant="primary", scale=1, min_width=110, elem_id="steer-run")
            self.stop = gr.Button("Stop", scale=1, min_width=70, elem_id="stop")
        with gr.Row(elem_classes="columns sheets"):
            for name, title in (("default", "Default"), ("steered", "Steered")):
                with gr.Column(min_width=260, elem_classes="sheet"):
                    gr.HTML(f"<h4>{title}</h4>", padding=False)
                    setattr(self, name, gr.HTML("", elem_id=f"{name}-text", padding=False))
        with gr.Row(elem_classes="actions"):
            self.note = gr.HTML(READY, elem_id="steer-note")
            self.page.clickable(COPY_LINK, elem_id="copy-link")
        self._lay_out_folds()

    def _lay_out_features(self, page: Page) -> None:
        self.suggestions = page.clickable("", elem_id="suggestions")
        self.rows = Rows(page)
        with gr.Row(elem_id="add-push"):
            self.added = unchecked(gr.Number(None, label="Feature id", show_label=False, container=False, min_width=110,
                                             placeholder="Feature id", scale=0))  # fmt: skip
            self.add = gr.Button("+ Add", size="sm", min_width=70, scale=0, elem_id="add")
            self.kept = page.clickable("", elem_id="from-basket")
            gr.HTML(note(f"{ABOUT_MODES} {STRENGTH}"), elem_id="modes-note", padding=False)

    def _lay_out_folds(self) -> None:
        with gr.Accordion("Settings: length, temperature, seed, where", open=False, elem_id="settings"), gr.Row():
            most = limits.MAX_NEW_TOKENS
            self.length = unchecked(gr.Slider(1, most, value=Ask.new_tokens, step=1, label="New tokens", min_width=180))
            self.temperature = unchecked(
                gr.Slider(0, 2, value=Ask.temperature, step=0.1, label="Temperature", min_width=180)
            )
            self.seed = unchecked(gr.Number(Ask.seed, label="Seed", minimum=0, maximum=limits.MAX_SEED, min_width=100))
            self.where = unchecked(gr.Radio(WHERE, value="everywhere", label="Push at", min_width=220))
        with gr.Accordion("Next-token changes", open=False, elem_id="changes"):
            self.changes = gr.HTML(READY, padding=False)
        with gr.Accordion("Strength sweep", open=False, elem_id="sweep"):
            with gr.Row(elem_classes="actions"):
                self.sweep = gr.Button(
                    "Write at five strengths", size="sm", scale=0, min_width=170, elem_id="sweep-run"
                )
                gr.HTML(note("How much of it is in the text, and how unlikely the text gets to the unsteered model."))
            self.curves = gr.Plot(show_label=False, visible=False, elem_id="curves")
            self.swept = gr.HTML("", elem_id="swept", padding=False)
        with gr.Accordion("As Python", open=False, elem_id="python"):
            self.code = self.page.clickable(READY)

    @property
    def inputs(self) -> list[Any]:
        """What `_asked` takes."""
        numbers = [self.prompt, self.length, self.temperature, self.seed, self.where]
        return [self.by, *self.rows.inputs, *self.panel.inputs, *numbers]

    @property
    def chosen(self) -> list[Any]:
        """What is filled where other features are chosen."""
        return [*self.rows.outputs, self.by, self.by_features, self.by_pairs, self.begin, self.page.address]

    @property
    def filled(self) -> list[Any]:
        panel = self.panel
        of_panel = [panel.text, panel.layer, panel.kind, panel.chosen, panel.summary, panel.ways]
        numbers = [self.prompt, self.length, self.temperature, self.seed, self.where]
        written = [self.default, self.steered, self.note, self.changes, self.code, self.swept, self.curves]  # type: ignore[attr-defined]
        return [*self.chosen[:-1], self.suggestions, *of_panel, *numbers, *written]

    def wire(self) -> None:
        page = self.page
        written = [
            self.default,
            self.steered,
            self.note,
            self.changes,
            self.code,
            self.swept,
            self.curves,
            page.address,
        ]  # type: ignore[attr-defined]
        begun = page.on(self.begin.change, self._write, self.inputs, written, "write")
        submitted = page.on(self.prompt.submit, self._write, self.inputs, written, "write", cancels=[begun])
        run = page.on(self.run.click, self._write, self.inputs, written, "write", cancels=[begun, submitted])
        writing = [begun, submitted, run]
        sweeping = page.on(self.sweep.click, self._sweep, self.inputs, [self.swept, self.curves], "write")
        self.stop.click(
            lambda: STOPPED,
            None,
            self.note,
            cancels=[*writing, sweeping],
            queue=False,
            show_progress="hidden",
            **PRIVATE,
        )
        page.on(page.steered.change, self._steered, [page.steered], [*self.chosen, page.steered], cancels=writing)
        page.on_click(self.suggestions, self._try, [], self.chosen, cancels=writing)
        self._wire_rows(page)
        self.panel.wire()
        outputs = [*self.chosen]
        page.on(self.panel.become.click, self._become, self.panel.inputs, outputs, "read", cancels=writing)
        page.on(self.by.input, self._turn, [self.by], [self.by_features, self.by_pairs])
        for trigger in (page.basket.change, *page.opened):
            page.on(trigger, self._kept, [page.basket], [self.kept])

    def _wire_rows(self, page: Page) -> None:
        rows, outputs = self.rows, [*self.rows.outputs, page.address]
        for i, remover in enumerate(rows.removers):
            page.on(remover.click, functools.partial(self._remove, i), rows.inputs, outputs)
        for trigger in (self.add.click, self.added.submit):
            page.on(trigger, self._add, [self.added, *rows.inputs], [*outputs, self.added])
        page.on_click(self.kept, self._add_kept, rows.inputs, outputs)
        for part in (*(mode.input for mode in rows.modes), *(strength.release for strength in rows.strengths)):
            page.on(part, self._moved, rows.inputs, [*rows.strengths, page.address], trigger_mode="always_last")

    def show(self, opened: Opened, asked: Asked) -> View:
        """What the address asks for, else a feature that steers well and what it was seen to do."""
        first = [pushes.start(opened, feature) for feature in pushes.suggested(opened)[:1]]
        shown = asked.get("push", lambda value: pushes.parsed(opened, value), first)
        by = asked.get("steer_by", lambda value: limits.choice(value, "Steer by", [name for _, name in BY]), "features")
        pairs = asked.get("pairs", lambda value: limits.text(value, "The list of pairs", MOST_IN_ADDRESS), EXAMPLE)
        view = self._with(opened, shown, by) | self.panel.show(opened, pairs) | self._settings(asked)
        view |= {
            self.suggestions: pieces.tries(opened, pushes.suggested(opened), "try", "These steer well:"),
            self.default: "", self.steered: "", self.note: READY, self.changes: READY, self.code: READY, self.swept: "",  # type: ignore[attr-defined]
            self.curves: gr.update(value=None, visible=False),
        }  # fmt: skip
        if asked.get("tab", str, "") == self.id and (shown is not first or by == "pairs"):
            return view | {self.begin: time.monotonic_ns()}
        return view | (self._beforehand(opened) if shown is first and view[self.prompt] == PROMPT else {})

    def _settings(self, asked: Asked) -> View:
        number = lambda what, low, high: lambda value: limits.whole(numeral(value), what, low, high)  # noqa: E731
        return {
            self.prompt: asked.get("text", limits.prompt, PROMPT),
            self.length: asked.get("new_tokens", number("New tokens", 1, limits.MAX_NEW_TOKENS), Ask.new_tokens),
            self.temperature: asked.get("temperature", _temperature, Ask.temperature),
            self.seed: asked.get("seed", number("Seed", 0, limits.MAX_SEED), Ask.seed),
            self.where: asked.get("at", lambda v: limits.choice(v, "Push at", [n for _, n in WHERE]), "everywhere"),
        }

    def _beforehand(self, opened: Opened) -> View:
        """The text that the features stage wrote with the first feature."""
        entry = next(iter(opened.store.gallery.get("steering", [])), {})
        if entry.get("prompt") != PROMPT or not entry.get("steered"):
            return {}
        default, steered = str(entry["default"]), str(entry["steered"])
        same = next((i for i, (a, b) in enumerate(zip(default, steered, strict=False)) if a != b), len(default))
        words = pushes.fired_on(opened.row(int(entry["feature"])))
        texts = pieces.columns(PROMPT, Written(default, steered, same, ([], [])), words)
        return {self.default: texts[0], self.steered: texts[1], self.note: BEFOREHAND}  # type: ignore[attr-defined]

    def _with(self, opened: Opened, shown: list[Any], by: str = "features") -> View:
        """The rows of other pushes, in sight."""
        sight = {self.by_features: gr.update(visible=by == "features"), self.by_pairs: gr.update(visible=by == "pairs")}
        return self.rows.view(opened, shown) | {self.by: by} | sight

    def _replaced(self, opened: Opened, features: list[Any]) -> View:
        """Other features, each as its own strength asks, and their texts written."""
        found = pushes.checked(opened, pushes.triples([pushes.start(opened, feature) for feature in features]))
        address = self.page.at(push=pushes.written(found), steer_by=None, pairs=None)
        return self._with(opened, found) | {self.begin: time.monotonic_ns(), **address}

    def _steered(self, opened: Opened, features: list[Any]) -> View:
        if not features:
            return {}
        # Emptied, so that the same feature may be asked for again.
        found = [limits.feature(feature, opened.d_sae) for feature in features[: limits.MAX_PUSHES]]
        return self._replaced(opened, found) | {self.page.steered: []}

    def _try(self, opened: Opened, data: dict[str, Any]) -> View:
        return (
            self._replaced(opened, [limits.feature(data.get("feature"), opened.d_sae)])
            if data.get("act") == "try"
            else {}
        )

    def _become(self, opened: Opened, *values: Any) -> View:
        found = pushes.checked(opened, pushes.triples(self.panel.pushes(opened, values)))
        address = self.page.at(push=pushes.written(found), steer_by=None, pairs=None)
        return self._with(opened, found) | {self.begin: time.monotonic_ns(), **address}

    def _turn(self, opened: Opened, by: object) -> View:
        return {self.by_features: gr.update(visible=by != "pairs"), self.by_pairs: gr.update(visible=by == "pairs")}

    def _add(self, opened: Opened, feature: object, *values: Any) -> View:
        if feature is None:
            raise limits.Refused("Give the id of a feature, or pick one in another tab and press Steer.")
        push = pushes.start(opened, limits.feature(feature, opened.d_sae))
        found = pushes.checked(opened, [*self.rows.raw(values), *pushes.triples([push])])
        return self.rows.view(opened, found) | {self.added: None, **self.page.at(push=pushes.written(found))}

    def _add_kept(self, opened: Opened, data: dict[str, Any], *values: Any) -> View:
        if data.get("act") != "push":
            return {}
        view = self._add(opened, data.get("feature"), *values)
        return {part: value for part, value in view.items() if part is not self.added}

    def _remove(self, i: int, opened: Opened, *values: Any) -> View:
        left = [entry for j, entry in enumerate(self.rows.raw(values)) if j != i]
        found = pushes.checked(opened, left) if left else []
        return self.rows.view(opened, found) | self.page.at(push=pushes.written(found))

    def _moved(self, opened: Opened, *values: Any) -> View:
        """A mode or a strength was changed: the address says so, and an ablated feature has no strength."""
        found = self.rows.read(opened, values)
        view: View = {
            self.rows.strengths[i]: gr.update(interactive=push.mode != "ablate") for i, push in enumerate(found)
        }
        return view | self.page.at(push=pushes.written(found))

    def _kept(self, opened: Opened, basket: object) -> View:
        mine = [entry["feature"] for entry in limits.basket(basket) if entry["sae"] == opened.name]
        mine = [feature for feature in mine if feature < opened.d_sae]
        return {self.kept: pieces.tries(opened, mine[: pushes.MOST_SUGGESTED], "push", "From your basket:")}

    def _asked(self, opened: Opened, values: tuple[Any, ...]) -> tuple[Source, Ask]:
        by = limits.choice(values[0], "Steer by", [name for _, name in BY])
        n = 1 + len(self.rows.inputs)
        *numbers, where = values[-5:]
        ask, new_only = Ask.checked(*numbers), limits.choice(where, "Push at", [name for _, name in WHERE]) == "new"
        if by == "features":
            return ByFeatures(opened, self.rows.read(opened, values[1:n]), new_only), ask
        return self.panel.source(opened, values[n:-5], new_only), ask

    def _write(self, opened: Opened, *values: Any) -> Iterator[View]:
        """Both texts, growing side by side."""
        source, ask = self._asked(opened, values)
        yield {
            self.note: note(f"{source.told}. Writing…"), self.changes: pieces.changes(changes(source, ask)),
            self.code: pieces.code(snippet(source, ask)), self.swept: "",
            self.curves: gr.update(value=None, visible=False), **self._place(source, ask, str(values[self._pairs_at])),
        }  # fmt: skip
        for written in both(source, ask):
            default, steered = pieces.columns(ask.prompt, written, source.words)
            yield {self.default: default, self.steered: steered}  # type: ignore[attr-defined]
        yield {self.note: pieces.ending(source, written)}

    @property
    def _pairs_at(self) -> int:
        return 1 + len(self.rows.inputs)

    def _place(self, source: Source, ask: Ask, pairs: str) -> View:
        """The address of what is written; long pairs are left out of it."""
        plain = Ask()
        settings = {
            "text": ask.prompt, "new_tokens": ask.new_tokens, "temperature": ask.temperature, "seed": ask.seed,
        }  # fmt: skip
        usual = {
            "text": plain.prompt,
            "new_tokens": plain.new_tokens,
            "temperature": plain.temperature,
            "seed": plain.seed,
        }
        said: dict[str, Any] = {name: None if value == usual[name] else value for name, value in settings.items()}
        said |= {"at": "new" if source.new_only else None, "tab": self.id}
        if isinstance(source, ByFeatures):
            said |= {"push": pushes.written(source.pushes), "steer_by": None, "pairs": None}
        else:
            short = pairs if pairs != EXAMPLE and len(pairs) <= MOST_IN_ADDRESS else None
            said |= {"push": None, "steer_by": "pairs", "pairs": short}
        return self.page.at(**said)

    def _sweep(self, opened: Opened, *values: Any) -> Iterator[View]:
        """The text at five strengths, then two curves."""
        source, ask = self._asked(opened, values)
        yield {self.swept: note("Writing…"), self.curves: gr.update(visible=False)}
        for table in swept(source, ask):
            yield {self.swept: pieces.swept(table, ask, source.words)}
        yield {self.curves: gr.update(value=plots.strengths(table, source.measured), visible=True)}


def _temperature(value: str) -> float:
    try:
        number: object = float(value)
    except ValueError:
        number = value
    return limits.finite(number, "Temperature", 0, 2)
