"""Five rows, one a pushed feature; those without one are hidden."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo import limits
from demo.inputs import unchecked
from demo.page import Page
from demo.steering import pieces, pushes
from demo.tab import View
from demo.workbench import Opened
from sae_tools.analysis.steering import Push

MODES = [("Add", "add"), ("Clamp", "clamp"), ("Ablate", "ablate")]
ABOUT_MODES = "Add to the feature, hold it at one value (clamp), or remove it (ablate)."


class Rows:
    """The rows' parts; which feature stands in which is kept in a state, mode and strength in the parts themselves."""

    def __init__(self, page: Page) -> None:
        self.features = gr.State([])
        self.rows: list[Any] = []
        self.heads: list[Any] = []
        self.modes: list[Any] = []
        self.strengths: list[Any] = []
        self.bands: list[Any] = []
        self.removers: list[Any] = []
        for i in range(limits.MAX_PUSHES):
            self._lay_out(page, i)

    def _lay_out(self, page: Page, i: int) -> None:
        most = limits.MAX_STRENGTH
        with gr.Row(visible=i == 0, elem_classes="push", elem_id=f"push-{i}") as row:
            self.heads.append(page.clickable("", elem_classes="push-head"))
            mode = gr.Radio(MODES, value="add", label=f"Mode {i + 1}", show_label=False, container=False, min_width=200)
            with gr.Column(min_width=220, elem_classes="push-strength"):
                slider = gr.Slider(
                    -most, most, value=pushes.FIRM, step=0.05, label=f"Strength {i + 1}", show_label=False,
                    container=False,
                )  # fmt: skip
                self.bands.append(gr.HTML("", padding=False))
            self.removers.append(gr.Button("✕", size="sm", min_width=36, scale=0, elem_classes="remove"))
        self.rows.append(row)
        self.modes.append(unchecked(mode))
        self.strengths.append(unchecked(slider))

    @property
    def inputs(self) -> list[Any]:
        """What `raw` takes."""
        return [self.features, *self.modes, *self.strengths]

    @property
    def outputs(self) -> list[Any]:
        """What `view` fills."""
        return [self.features, *self.rows, *self.heads, *self.modes, *self.strengths, *self.bands]

    @staticmethod
    def raw(values: tuple[Any, ...]) -> list[list[Any]]:
        """[feature, mode, strength] of each row, unchecked; `values` are those of `inputs`."""
        features, most = values[0], limits.MAX_PUSHES
        return [[feature, values[1 + i], values[1 + most + i]] for i, feature in enumerate(features)]

    def view(self, opened: Opened, shown: list[Push]) -> View:
        """Rows that say these pushes."""
        view: View = {self.features: [push.feature for push in shown]}
        for i, row in enumerate(self.rows):
            if i >= len(shown):
                view[row] = gr.update(visible=False)
                continue
            push = shown[i]
            view |= {
                row: gr.update(visible=True), self.heads[i]: pieces.head(opened, push.feature),
                self.modes[i]: push.mode,
                self.strengths[i]: gr.update(value=push.strength, interactive=push.mode != "ablate"),
                self.bands[i]: pieces.band(*pushes.fluent(opened.row(push.feature)), limits.MAX_STRENGTH),
            }  # fmt: skip
        return view
