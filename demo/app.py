"""The page: its head, its tabs, and how it opens."""

from __future__ import annotations

import asyncio
import html
from collections.abc import AsyncIterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo import limits, progress
from demo.api import Api
from demo.asked import Asked, numeral
from demo.badges import badges, opening
from demo.limits import Refused
from demo.page import PRIVATE, Page, tell
from demo.tab import Tab, View
from demo.tabs import TABS
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.workbench import Opened, Workbench

TITLE = "SAE Workbench"
WAIT = 0.5
"""Seconds between two words on how the opening goes."""
HEADER = (
    "<h1>Look inside a language model</h1>"
    "<p>See which concepts light up as it reads your words, then turn one up or down and watch what it writes.</p>"
)


def build(names: list[str], bench: Future[Workbench], api: bool = False) -> gr.Blocks:
    """The page over the SAEs called `names`; `bench` may still be opening: whoever asks first waits for it.

    With `api`, programs may ask too.
    """
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as blocks:
        with gr.Row(elem_id="top"):
            gr.HTML(HEADER, elem_id="header")
            page = Page(names, bench)
        badges_part = gr.HTML("", elem_id="badges")
        tabs: list[Tab] = []
        with gr.Tabs(elem_id="tabs") as page.tabs:
            for kind in TABS:
                with gr.Tab(kind.title, id=kind.id, elem_id=f"tab-{kind.id}") as part:
                    tabs.append(kind(page))
                tabs[-1].part = part
        _Opening(page, tabs, badges_part).wire(blocks)
        for tab in tabs:
            tab.wire()
        page.wire()
        if api:
            Api(page).wire()
    return blocks


class _Opening:
    """How the page is filled: on load as the address asks, and when another SAE is chosen."""

    def __init__(self, page: Page, tabs: list[Tab], badges_part: Any) -> None:
        self.page, self.tabs, self.badges = page, tabs, badges_part

    def wire(self, blocks: gr.Blocks) -> None:
        page = self.page
        filled = [
            self.badges,
            page.feature,
            page.prompt,
            page.address,
            *(part for tab in self.tabs for part in tab.filled),
        ]
        first = [page.sae, page.tabs, *filled]
        loaded = blocks.load(self._first, None, first, show_progress="hidden", concurrency_limit=None, **PRIVATE)
        changed = page.on(page.sae.input, self._another, [page.prompt], filled)
        page.opened = [loaded.success, changed.success]
        self._outputs = first

    async def _first(self, request: gr.Request) -> AsyncIterator[Any]:
        """What is going on, until the workbench is open, then the view; holds no thread while it waits."""
        while not self.page.ready:
            yield self._listed({self.badges: opening(progress.now())})
            await asyncio.sleep(WAIT)
        yield await asyncio.to_thread(self._view, request)

    def _view(self, request: gr.Request) -> list[Any]:
        asked = Asked(dict(request.query_params))
        try:
            page = self.page
            name = asked.get("sae", lambda value: limits.choice(value, "SAE", page.names), page.names[0])
            view = {page.sae: name, **self._shown(page.open(name), asked)}
            if tab := asked.get("tab", lambda value: limits.choice(value, "Tab", [t.id for t in self.tabs]), ""):
                view[page.tabs] = gr.Tabs(selected=tab)
        except (Refused, WorkbenchError) as error:
            tell(error)
            view = {}
        for problem in asked.problems:
            gr.Warning(html.escape(problem))
        return self._listed(view)

    def _listed(self, view: View) -> list[Any]:
        return [view.get(part, gr.skip()) for part in self._outputs]

    def _another(self, opened: Opened, prompt: object) -> View:
        """Another SAE has other features: none is chosen, the text stays."""
        prompt = str(prompt)
        view = self._shown(opened, Asked({"prompt": prompt} if prompt else {}))
        return view | self.page.at(sae=opened.name, feature=None)

    def _shown(self, opened: Opened, asked: Asked) -> View:
        page = self.page
        view = {
            self.badges: badges(opened),
            page.feature: asked.get("feature", lambda value: limits.feature(numeral(value), opened.d_sae), None),
            page.prompt: asked.get("prompt", limits.prompt, ""),
        }
        for tab in self.tabs:
            view |= tab.show(opened, asked)
        return view
