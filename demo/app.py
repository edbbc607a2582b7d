"""Which click asks for what. Where the page's parts stand is in `layout`, what the answers are in `handlers`."""

from __future__ import annotations

import functools
import html
import inspect
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import gradio as gr

from demo.layout import EXAMPLES, STOPPED, TITLE, lay_out
from demo.limits import Refused
from sae_tools.common.errors import WorkbenchError

if TYPE_CHECKING:
    from demo.handlers import Handlers

log = logging.getLogger(__name__)

# Known at run time: gradio reads the annotations of what it calls.
View = dict[str, Any]
Answer = Callable[..., Any]

CARD = [
    "feature", "feature_box", "strip", "table", "following", "card_head", "histogram", "card_body", "steer_feature",
]  # fmt: skip
EXPLORED = ["shown_prompt", *CARD]
COMPARED = ["compared", "compared_prompt"]
OF_SAE = ["badges", "about", "transfer_metrics", "scatter", "scatter_note", *COMPARED, *EXPLORED]
WRITTEN = ["default_text", "steered_text", "steer_note"]
PRIVATE = {"api_visibility": "private"}


class Page:
    """The page over `handlers`, which may still be opening: whoever asks first waits for them."""

    def __init__(self, names: list[str], handlers: Future[Handlers]) -> None:
        self._handlers = handlers
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            self.parts = lay_out(names)
            self._wire_choices()
            self._wire_features()
            self._wire_models()

    def _wire_choices(self) -> None:
        p = self.parts
        self._on(self.blocks.load, self._first, [], ["sae", "prompt", *OF_SAE])
        self._on(p["sae"].input, self._ask("change_sae"), ["sae", "shown_prompt", "hide_dense"], OF_SAE)
        run = ["sae", "prompt", "feature", "hide_dense"]
        for trigger in (p["run"].click, p["prompt"].submit):
            self._on(trigger, self._ask("explore"), run, EXPLORED)
        for example, button in zip(EXAMPLES, p["examples"], strict=True):
            self._on(button.click, _with_prompt(example, self._ask("explore")), run, ["prompt", *EXPLORED])

    def _wire_features(self) -> None:
        p = self.parts
        shown = ["sae", "shown_prompt", "hide_dense"]
        self._on(
            p["hide_dense"].input, self._ask("explore"), ["sae", "shown_prompt", "feature", "hide_dense"], EXPLORED
        )
        for trigger in (p["open"].click, p["feature_box"].submit):
            self._on(trigger, self._ask("explore"), ["sae", "shown_prompt", "feature_box", "hide_dense"], EXPLORED)
        self._on(p["random"].click, self._ask("lucky"), shown, EXPLORED)
        self._on(p["clear"].click, self._nothing_chosen, shown, EXPLORED)
        for rows in ("table", "card_body"):
            self._on(p[rows].click, self._pick, shown, EXPLORED)

    def _wire_models(self) -> None:
        p = self.parts
        asked = ["sae", "feature", "mode", "strength", "steer_prompt", "new_tokens", "temperature", "seed"]
        runs = [
            self._on(trigger, self._steer, asked, WRITTEN) for trigger in (p["steer"].click, p["steer_prompt"].submit)
        ]
        p["stop"].click(lambda: STOPPED, None, p["steer_note"], cancels=runs, queue=False, **PRIVATE)
        p["mode"].input(_strength_counts, p["mode"], p["strength"], queue=False, **PRIVATE)
        for trigger in (p["compare"].click, p["compare_prompt"].submit, p["compare_tab"].select):
            self._on(trigger, self._ask("compare"), ["sae", "feature", "compare_prompt"], COMPARED)
        self._on(p["feature"].change, self._again, ["sae", "feature", "compared_prompt"], [*COMPARED, "scatter"])

    def _on(self, trigger: Answer, answer: Answer, inputs: list[str], outputs: list[str]) -> Any:
        """One event: named parts in, named parts out; model calls take turns in one queue."""
        return trigger(
            _friendly(answer, outputs), [self.parts[n] for n in inputs], [self.parts[n] for n in outputs],
            concurrency_limit=1, concurrency_id="model", show_progress="hidden", **PRIVATE,
        )  # fmt: skip

    def _ask(self, method: str) -> Answer:
        def ask(*values: object) -> View:
            view: View = getattr(self._handlers.result(), method)(*values)
            return view

        return ask

    def _first(self, request: gr.Request) -> View:
        view, problems = self._handlers.result().first(dict(request.query_params), EXAMPLES[0])
        for problem in problems:
            gr.Warning(html.escape(problem))
        return view

    def _pick(self, sae: object, prompt: object, hide_dense: object, event: gr.EventData) -> View:
        return self._handlers.result().explore(sae, prompt, event._data.get("feature"), hide_dense)

    def _nothing_chosen(self, sae: object, prompt: object, hide_dense: object) -> View:
        return self._handlers.result().explore(sae, prompt, None, hide_dense)

    def _steer(self, *values: object) -> Iterator[View]:
        yield from self._handlers.result().steer(*values)

    def _again(self, sae: object, feature: object, prompt: object) -> View:
        """Recolour a comparison that is on the page; there is none to recolour before the tab is first opened."""
        return self._handlers.result().compare(sae, feature, prompt) if prompt else {}


def _strength_counts(mode: str) -> Any:
    return gr.update(interactive=mode != "Ablate")


def _with_prompt(example: str, ask: Answer) -> Answer:
    def answer(sae: object, _: object, feature: object, hide_dense: object) -> View:
        return {"prompt": example, **ask(sae, example, feature, hide_dense)}

    return answer


def _friendly(answer: Answer, outputs: list[str]) -> Answer:
    """`answer`, its view as values in the order of `outputs`; a refusal becomes a notice and changes nothing."""

    def listed(view: View) -> Any:
        return [view.get(name, gr.skip()) for name in outputs]

    if inspect.isgeneratorfunction(answer):

        @functools.wraps(answer)
        def stream(*values: Any) -> Iterator[Any]:
            try:
                for view in answer(*values):
                    yield listed(view)
            except (Refused, WorkbenchError) as error:
                _tell(error)
                yield listed({})

        return stream

    @functools.wraps(answer)
    def once(*values: Any) -> Any:
        try:
            return listed(answer(*values))
        except (Refused, WorkbenchError) as error:
            _tell(error)
            return listed({})

    return once


def _tell(error: Exception) -> None:
    """A refusal is the visitor's to read; a fault of ours may name a machine's paths, so it goes to the log."""
    if isinstance(error, Refused):
        gr.Warning(html.escape(str(error)))
    else:
        log.error("%s", error)
        gr.Warning("The model or its features could not be opened. The reason is in the server's log.")
