"""What the tabs share: the chosen SAE, feature and text, and the way from a click to an answer.

An answer is a function of an opened SAE and of the values of its inputs, to a `View`. A refusal becomes a notice and
changes nothing; so does a fault, whose reason goes to the server's log.
"""

from __future__ import annotations

import html
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo import limits
from demo.inputs import unchecked
from demo.limits import Refused
from demo.tab import View
from demo.zerogpu import on_gpu
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.workbench import Opened, Workbench

log = logging.getLogger(__name__)

Answer = Callable[..., Any]
Trigger = Callable[..., Any]
SCRIPTS = Path(__file__).parent / "scripts"
TURNS = {"tables": 4, "read": 2, "write": 2}
"""How many answers of each kind are worked on at once; every step of a model takes its turn besides."""
PRIVATE = {"api_visibility": "private"}


class Page:
    """The parts that belong to no tab, and how events are wired; `names` are those of the SAEs."""

    def __init__(self, names: list[str], bench: Future[Workbench]) -> None:
        self.names, self._bench = names, bench
        self._clickable: list[gr.HTML] = []
        self.feature = gr.State(None)
        """Id of the chosen feature, or None."""
        self.prompt = gr.State("")
        """The text that Explore reads; another tab sets it to have it read."""
        self.steered = gr.State([])
        """Ids of the features that a click outside the Steer tab asked to steer with."""
        self.basket = gr.BrowserState([], storage_key="sae-workbench-basket", secret="kept by the browser")
        """Kept features: [{"sae", "feature", "label"}]."""
        self.kept = gr.HTML("", js_on_load=script("kept"), elem_id="kept", padding=False)
        """Says which features are in the basket; outside the tabs, since a tab is made when it is first looked at."""
        self.address = gr.HTML("", js_on_load=script("address"), elem_id="address", padding=False)
        self.tabs: Any = None
        self.opened: list[Trigger] = []
        """Fires when an SAE was opened and the tabs show it: on load, and when another one is chosen."""
        self.sae = unchecked(
            gr.Dropdown(
                names, value=names[0], label="SAE", filterable=False, min_width=150, scale=0, visible=len(names) > 1,
                elem_id="sae",
            )
        )  # fmt: skip

    def clickable(self, value: str = "", **more: Any) -> gr.HTML:
        """HTML in which an element with `data-act` (pick, open, steer, keep) and `data-feature` acts when clicked."""
        part = gr.HTML(value, js_on_load=script("clicks"), **more)
        self._clickable.append(part)
        return part

    def on(
        self, trigger: Trigger, answer: Answer, inputs: Sequence[Any] = (), outputs: Sequence[Any] = (),
        group: str = "tables", **more: Any,
    ) -> Any:  # fmt: skip
        """One event: `answer(opened, *values of inputs)` gives new contents of some of `outputs`.

        Answers of one group share their turns: `tables` touches no model, `read` runs one once, `write` generates.
        """
        return trigger(
            self._wrapped(answer, list(outputs), group), [self.sae, *inputs], list(outputs),
            concurrency_limit=TURNS[group],
            concurrency_id=group, show_progress="hidden", **PRIVATE, **more,
        )  # fmt: skip

    def on_click(
        self, part: gr.HTML, answer: Answer, inputs: Sequence[Any] = (), outputs: Sequence[Any] = (),
        group: str = "tables", **more: Any,
    ) -> Any:  # fmt: skip
        """As `on`, for a click on an element of `part` that carries `data-…`: `answer(opened, data, *values)`."""

        answered = self._wrapped(answer, list(outputs), group)

        def clicked(event: gr.EventData, sae: object, *values: object) -> Any:
            return answered(sae, dict(event._data or {}), *values)

        return part.click(
            clicked, [self.sae, *inputs], list(outputs), concurrency_limit=TURNS[group], concurrency_id=group,
            show_progress="hidden", **PRIVATE, **more,
        )  # fmt: skip

    def wire(self) -> None:
        """Let every clickable part do what its elements say."""
        outputs = [self.feature, self.steered, self.basket, self.tabs, self.address]
        for part in self._clickable:
            self.on_click(part, self._act, [self.basket], outputs)

    def _act(self, opened: Opened, data: dict[str, Any], basket: object) -> View:
        act = data.get("act")
        if act not in ("pick", "open", "steer", "keep"):
            return {}
        feature = limits.feature(data.get("feature"), opened.d_sae)
        if act == "keep":
            return {self.basket: toggled(limits.basket(basket), opened, feature)}
        if act == "steer":
            return {self.steered: [feature], self.tabs: gr.Tabs(selected="steer"), **self.at(tab="steer")}
        if act == "pick":
            return {self.feature: feature, **self.at(feature=feature)}
        opening = {self.feature: feature, self.tabs: gr.Tabs(selected="feature")}
        return opening | self.at(feature=feature, tab="feature")

    def at(self, **parts: object) -> View:
        """Let the address say so: `?name=value`; None or "" takes a name out."""
        return {self.address: f'<i hidden data-address="{html.escape(json.dumps(parts), quote=True)}"></i>'}

    def open(self, name: object) -> Opened:
        """The SAE called `name`.

        Raises:
            Refused: the workbench is still opening: nobody's thread waits for it.
        """
        if not self.ready:
            raise Refused("The model and its features are still being opened. Try again in a moment.")
        return self._bench.result().open(limits.choice(name, "SAE", self.names))

    @property
    def ready(self) -> bool:
        """Whether the workbench is open."""
        return self._bench.done()

    def _wrapped(self, answer: Answer, outputs: list[Any], group: str) -> Answer:
        """From the value of the SAE's box and of inputs to values in the order of `outputs`; where the models are."""
        plain = self._listed(answer, outputs)
        return plain if group == "tables" else on_gpu(plain)

    def _listed(self, answer: Answer, outputs: list[Any]) -> Answer:
        def listed(view: View) -> Any:
            if unknown := [part for part in view if part not in outputs]:
                raise KeyError(f"{answer.__qualname__} fills parts that it did not name: {unknown}")
            values = [view.get(part, gr.skip()) for part in outputs]
            return values[0] if len(values) == 1 else values

        if inspect.isgeneratorfunction(answer):

            def stream(sae: object, *values: object) -> Iterator[Any]:
                try:
                    for view in answer(self.open(sae), *values):
                        yield listed(view)
                except (Refused, WorkbenchError) as error:
                    tell(error)
                    yield listed({})

            return stream

        def once(sae: object, *values: object) -> Any:
            try:
                return listed(answer(self.open(sae), *values))
            except (Refused, WorkbenchError) as error:
                tell(error)
                return listed({})

        return once


def toggled(basket: list[dict[str, Any]], opened: Opened, feature: int) -> list[dict[str, Any]]:
    """A basket with the feature put in or, where it is in already, taken out."""
    kept = [entry for entry in basket if (entry["sae"], entry["feature"]) != (opened.name, feature)]
    if len(kept) < len(basket):
        return kept
    if len(kept) >= limits.MAX_BASKET:
        raise Refused(f"The basket holds {limits.MAX_BASKET} features; take one out first.")
    return [*kept, {"sae": opened.name, "feature": feature, "label": str(opened.row(feature)["label"])}]


def tell(error: Exception) -> None:
    """A refusal is the visitor's to read; a fault of ours may name a machine's paths, so it goes to the log."""
    if isinstance(error, Refused):
        gr.Warning(html.escape(str(error)))
    else:
        log.error("%s", error)
        gr.Warning("The model or its features could not be opened. The reason is in the server's log.")


def script(name: str) -> str:
    """JavaScript from `demo/scripts/`."""
    return (SCRIPTS / f"{name}.js").read_text()
