"""What a tab is: its parts, its events and its answers, in one file of `demo/tabs/`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from demo.asked import Asked
    from demo.page import Page
    from demo.workbench import Opened

View = dict[Any, Any]
"""New contents by part of the page; what is not named stays as it is."""


class Tab:
    """One tab. A new one is a class in a file of its own and a name in `demo.tabs.TABS`."""

    id: ClassVar[str]
    """In the address, `?tab=…`."""
    title: ClassVar[str]
    part: Any
    """The `gr.Tab` that holds it; its `select` fires when it comes into sight."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.lay_out()

    def lay_out(self) -> None:
        """Make the parts, where they stand."""
        raise NotImplementedError

    def wire(self) -> None:
        """Say which click asks for what, by `page.on`; every tab is laid out by then."""

    @property
    def filled(self) -> list[Any]:
        """The parts that `show` fills."""
        return []

    def show(self, opened: Opened, asked: Asked) -> View:
        """What is seen of an SAE that was just opened, and of what the address asks for. Touches no model."""
        return {}
