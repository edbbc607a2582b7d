"""Everything known of one feature."""

from __future__ import annotations

from demo import cards
from demo.tab import Tab, View
from demo.workbench import Opened


class Feature(Tab):
    id = "feature"
    title = "Feature"

    def lay_out(self) -> None:
        self.body = self.page.clickable('<p class="empty">Pick a feature first.</p>', elem_id="feature")

    def wire(self) -> None:
        self.page.on(self.page.feature.change, self._open, [self.page.feature], [self.body])

    def _open(self, opened: Opened, feature: int | None) -> View:
        if feature is None:
            return {self.body: '<p class="empty">Pick a feature first.</p>'}
        return {
            self.body: cards.title(opened, feature)
            + cards.buttons(feature, ("steer", "keep"))
            + cards.facts(opened, feature)
            + cards.examples(opened, feature)
        }
