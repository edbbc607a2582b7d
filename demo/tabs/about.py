"""What this is, how good it is, how it was made, and how to ask it from a program."""

from __future__ import annotations

from typing import Any

from demo.about import about
from demo.asked import Asked
from demo.tab import Tab, View
from demo.workbench import Opened


class About(Tab):
    id = "about"
    title = "About"

    def lay_out(self) -> None:
        self.body = self.page.clickable('<p class="empty">Opening…</p>', elem_id="about")

    @property
    def filled(self) -> list[Any]:
        return [self.body]

    def show(self, opened: Opened, asked: Asked) -> View:
        return {self.body: about(opened)}
