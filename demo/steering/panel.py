"""The part of the Steer tab where a direction is made from pairs of texts and looked at through the SAE."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from demo import limits
from demo.inputs import unchecked
from demo.limits import Refused
from demo.page import Page
from demo.steering import way_tables
from demo.steering.by_direction import VECTORS, WAYS, ByDirection, chosen_of, way_of
from demo.steering.pairs import EXAMPLE, Asked, Seen, look, looked, own_site
from demo.tab import View
from demo.workbench import Opened
from sae_tools.analysis.steering import Push
from sae_tools.models.sites import KINDS
from sae_tools.reports.render import note

ABOUT = (
    "Write pairs of texts, with something and without it: the mean difference of the model's activations is a "
    "direction. See it through the SAE, then steer by it."
)
FORMATS = (
    'One pair a line, "positive | negative"; or JSON lines with positive and negative, or CAA\'s question and answers.'
)
POSITIONS = [("Last token", "last"), ("All tokens", "all"), ("Chosen ones", "chosen")]
FIRMLY = 0.5
"""A mean difference is less pure than a feature's direction: the example pairs show from here on."""
HINT = "Press + beside features to steer by them alone."


class Panel:
    """The panel's parts and answers."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.chosen = gr.State([])
        gr.HTML(note(ABOUT), padding=False)
        with gr.Row(elem_classes="columns pairs"):
            self.text = gr.Textbox(
                EXAMPLE, label="Pairs", info=FORMATS, lines=6, max_lines=10, scale=3, min_width=280,
                max_length=limits.MAX_PAIRS_CHARACTERS, elem_id="pairs",
            )  # fmt: skip
            with gr.Column(scale=2, min_width=260):
                self._lay_out_where()
        self.summary = gr.HTML("", elem_id="direction-summary", padding=False)
        self.ways = page.clickable("", elem_id="ways")
        self._lay_out_by()

    def _lay_out_where(self) -> None:
        self.where = unchecked(gr.Radio(POSITIONS, value="last", label="Compare at", elem_id="positions"))
        self.tokens = gr.Textbox(
            "0, -1", label="Tokens", info="0 is the first, -1 the last", visible=False, elem_id="chosen-tokens"
        )
        with gr.Row():
            self.layer = unchecked(gr.Number(0, label="Layer", minimum=0, precision=0, min_width=70, scale=1))
            self.kind = unchecked(gr.Dropdown(list(KINDS), label="Site", filterable=False, min_width=150, scale=2))
        self.find = gr.Button("Find the direction", variant="primary", elem_id="find")

    def _lay_out_by(self) -> None:
        most = limits.MAX_STRENGTH
        choices = [(title, name) for name, title in VECTORS.items()]
        with gr.Row():
            self.by = unchecked(
                gr.Radio(choices, value="vector", label="Steer by", scale=3, min_width=280, elem_id="vector")
            )
            self.way = unchecked(
                gr.Dropdown(
                    [(title, way) for way, (title, _) in WAYS.items()],
                    value="pursuit",
                    label="As seen by",
                    filterable=False,
                    visible=False,
                    min_width=160,
                    scale=1,
                    elem_id="way",
                )
            )
            self.strength = unchecked(
                gr.Slider(
                    -most,
                    most,
                    value=FIRMLY,
                    step=0.05,
                    label="Strength",
                    scale=2,
                    min_width=220,
                    info="Length of the direction as it is added, in typical activations' lengths.",
                    elem_id="direction-strength",
                )
            )
        with gr.Row():
            self.become = gr.Button(
                "Push the chosen features one by one instead", size="sm", scale=0, min_width=280, visible=False,
                elem_id="become",
            )  # fmt: skip

    @property
    def inputs(self) -> list[Any]:
        """What `source` takes."""
        return [*self._asked, self.by, self.way, self.chosen, self.strength]

    @property
    def filled(self) -> list[Any]:
        """What `show` fills."""
        return [self.text, self.layer, self.kind, self.chosen, self.summary, self.ways]

    @property
    def _asked(self) -> list[Any]:
        return [self.text, self.where, self.tokens, self.layer, self.kind]

    def wire(self) -> None:
        page, outputs = self.page, [self.summary, self.ways, self.chosen]
        page.on(self.find.click, self._find, self._asked, outputs, "read")
        page.on_click(
            self.ways, self._choose, [*self._asked, self.chosen], [self.ways, self.chosen, self.by, self.become]
        )
        page.on(self.where.input, self._tokens, [self.where], [self.tokens])
        page.on(self.by.input, self._by, [self.by], [self.way, self.become])

    def show(self, opened: Opened, text: str) -> View:
        """The panel of an SAE just opened."""
        layer, kind = own_site(opened)
        return {self.text: text, self.layer: layer, self.kind: kind, self.chosen: [], self.summary: "", self.ways: ""}

    def source(self, opened: Opened, values: tuple[Any, ...], new_only: bool) -> ByDirection:
        """What the panel says to steer by, its texts read where they were not yet; `values` are those of `inputs`."""
        by, way, chosen, strength = values[5:]
        seen = looked(opened, Asked.checked(*values[:5]))
        return ByDirection.checked(opened, seen, by, way, chosen, strength, new_only)

    def pushes(self, opened: Opened, values: tuple[Any, ...]) -> list[Push]:
        """The chosen features, each at the strength that its coefficient comes to.

        Raises:
            Refused: none is chosen, or more than can be pushed.
        """
        seen, chosen = looked(opened, Asked.checked(*values[:5])), chosen_of(values[7], opened.d_sae)
        if seen.ways is None or not 0 < len(chosen) <= limits.MAX_PUSHES:
            raise Refused(f"Choose between 1 and {limits.MAX_PUSHES} features in the four lists first.")
        most, found = limits.MAX_STRENGTH, []
        for way, feature in chosen:
            strength = float(seen.ways.tables[way]["coefficient"].get(feature, 0.0)) / seen.unit
            found.append(Push(feature, "add", max(-most, min(most, round(strength, 2)))))
        return found

    def _find(self, opened: Opened, *values: Any) -> Iterator[View]:
        asked = Asked.checked(*values)
        for found in look(opened, asked):
            if isinstance(found, Seen):
                hint = note(HINT) if found.ways else ""
                shown = way_tables.summary(opened, found) + hint
                yield {self.summary: shown, self.ways: way_tables.ways(opened, found, ()), self.chosen: []}
            else:
                yield {self.summary: note(f"Read {found} of {len(asked.pairs)} pairs…")}

    def _choose(self, opened: Opened, data: dict[str, Any], *values: Any) -> View:
        if data.get("act") != "choose":
            return {}
        feature, way = limits.feature(data.get("feature"), opened.d_sae), way_of(data.get("way"))
        kept = [(w, f) for w, f in chosen_of(values[5], opened.d_sae) if f != feature]
        if len(kept) == len(values[5]):
            kept.append((way, feature))
        seen, chosen = looked(opened, Asked.checked(*values[:5])), chosen_of(kept, opened.d_sae)
        view: View = {self.ways: way_tables.ways(opened, seen, chosen), self.chosen: [list(each) for each in chosen]}
        return view | ({self.by: "chosen", self.become: gr.update(visible=True)} if chosen else {})

    def _tokens(self, opened: Opened, where: object) -> View:
        return {self.tokens: gr.update(visible=where == "chosen")}

    def _by(self, opened: Opened, by: object) -> View:
        return {self.way: gr.update(visible=by == "reconstruction"), self.become: gr.update(visible=by == "chosen")}
