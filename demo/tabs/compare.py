"""Base vs finetuned."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demo.asked import Asked
from demo.tab import Tab, View
from demo.workbench import Opened


class Compare(Tab):
    id = "compare"
    title = "Base vs finetuned"

    def lay_out(self) -> None:
        self.body = gr.HTML('<p class="empty">Opening…</p>', elem_id="compare")

    @property
    def filled(self) -> list[Any]:
        return [self.body]

    def show(self, opened: Opened, asked: Asked) -> View:
        return {self.body: ""}
