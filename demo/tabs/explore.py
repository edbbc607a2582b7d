"""Type a text: which features fire on it?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import gradio as gr

from demo import limits
from demo.asked import Asked, numeral
from demo.inputs import prompt_box, unchecked
from demo.pieces.apart import side_by_side
from demo.pieces.card import card
from demo.pieces.fired import fired, found
from demo.pieces.following import following
from demo.pieces.strips import missed, pickable
from demo.ranking import Order, Over
from demo.reading import Reading, read
from demo.tab import Tab, View
from demo.workbench import Opened
from sae_tools.reports.render import escape, note

EXAMPLES = (
    "Once upon a time there was a little dog named Max. He loved to run in the park.",
    "Lily was sad because her red ball was lost. Her mom gave her a big hug.",
    '"Can I play with you?" asked the boy. The girl smiled and said yes.',
    "ROMEO: O, speak again, bright angel! for thou art as glorious to this night.",
)
ORDERS = {"telling": "Most telling first", "value": "Largest value first"}
OVERS = {"max": "Largest value", "mean": "Mean over tokens"}
HIDE = "Hide features that fire on more than 10% of tokens"
ERROR = "The stronger the colour, the more of the token's activation the SAE leaves out: its features miss it."


@dataclass(frozen=True)
class Seen:
    """What is looked at, checked."""

    prompt: str
    feature: int | None
    token: int | None
    order: Order
    hide: bool
    second: str
    over: Over

    @classmethod
    def of(cls, opened: Opened, *values: Any) -> Seen:
        """From the values of `Explore.seen`."""
        prompt, feature, token, order, hide, second, over = values
        return cls(
            prompt, None if feature is None else limits.feature(feature, opened.d_sae),
            None if token is None else limits.whole(token, "Token", 0, limits.MAX_TOKENS - 1),
            cast(Order, limits.choice(order, "Order", list(ORDERS))), hide is True, second,
            cast(Over, limits.choice(over, "Value", list(OVERS))),
        )  # fmt: skip


class Explore(Tab):
    id = "explore"
    title = "Explore"

    def lay_out(self) -> None:
        self.ran, self.token, self.second = gr.State(""), gr.State(None), gr.State("")
        self.first = gr.State(None)  # the feature that the page chose by itself: the next text may replace it
        with gr.Row(elem_classes="ask"):
            self.box = prompt_box(EXAMPLES[0], "Prompt", "prompt")
            self.run = gr.Button("Run", variant="primary", scale=1, min_width=90, elem_id="run")
        self.chips = self.page.clickable(_chips(), elem_id="prompt-examples")
        with gr.Row(elem_classes="columns"):
            with gr.Column(scale=6, min_width=300):
                self.strip = self.page.clickable('<p class="empty">Opening the model…</p>', elem_id="strip")
                with gr.Row(elem_classes="sorting"):
                    self.order = _radio(ORDERS, "Order", "order")
                    self.hide = unchecked(gr.Checkbox(True, label=HIDE, container=False, elem_id="hide-dense"))
                self.table = self.page.clickable("", elem_id="table")
            with gr.Column(scale=5, min_width=300, elem_id="card"):
                self.card = self.page.clickable("", elem_id="card-body")
        with gr.Accordion("What comes next, with and without the SAE", open=False, elem_id="following"):
            self.following = gr.HTML("")
        with gr.Accordion("Compare with a second text: what tells them apart?", open=False, elem_id="second"):
            with gr.Row(elem_classes="ask"):
                self.other = prompt_box(EXAMPLES[1], "Text B (text A is the prompt above)", "second-text")
                self.compare = gr.Button("Compare", scale=1, min_width=90)
            self.over = _radio(OVERS, "Value", "over")
            self.apart = self.page.clickable("", elem_id="apart")

    @property
    def seen(self) -> list[Any]:
        return [self.page.prompt, self.page.feature, self.token, self.order, self.hide, self.second, self.over]

    @property
    def drawn(self) -> list[Any]:
        return [self.strip, self.table, self.card, self.apart, self.following]

    @property
    def filled(self) -> list[Any]:
        return [self.box, self.ran, self.token, self.order, self.second, self.other]

    def wire(self) -> None:
        page, chosen = self.page, [self.page.feature, self.token, self.page.address]
        read_anew = [page.prompt, self.ran, self.first, *chosen, *self.drawn]
        for trigger in (self.run.click, self.box.submit):
            page.on(trigger, self._run, [self.box, self.first, *self.seen], read_anew, "read")
        for opened in page.opened:
            page.on(opened, self._arrive, [self.box, *self.seen], read_anew, "read")
        page.on(page.prompt.change, self._sent, [self.ran, self.first, *self.seen], [self.box, *read_anew], "read")
        page.on_click(self.chips, self._example, [self.first, *self.seen], [self.box, *read_anew], "read")
        page.on_click(self.strip, self._token, self.seen, [*chosen, *self.drawn], "read")
        page.on_click(self.table, self._token, self.seen, [*chosen, *self.drawn], "read")
        page.on(page.feature.change, self._draw, self.seen, self.drawn, "read")
        page.on(self.order.input, self._sort, self.seen, [page.address, *self.drawn], "read")
        for part in (self.hide, self.over):
            page.on(part.input, self._draw, self.seen, self.drawn, "read")
        for trigger in (self.compare.click, self.other.submit):
            page.on(trigger, self._compare, [self.other, *self.seen], [self.second, page.address, *self.drawn], "read")

    def show(self, opened: Opened, asked: Asked) -> View:
        second = asked.get("second", limits.prompt, "")
        last = limits.MAX_TOKENS - 1
        return {
            self.box: (prompt := asked.get("prompt", limits.prompt, "")) or EXAMPLES[0], self.ran: prompt,
            self.token: asked.get("token", lambda value: limits.whole(numeral(value), "Token", 0, last), None),
            self.order: asked.get("order", lambda value: limits.choice(value, "Order", list(ORDERS)), "telling"),
            self.second: second,
            # Only where asked for: a value that waits for the fold to open would undo what is typed on opening it.
            **({self.other: second} if second else {}),
        }  # fmt: skip

    def _run(self, opened: Opened, text: object, first: object, *values: Any) -> View:
        """Read a text; a feature that a person chose stays where it fires, else the first of the table is chosen."""
        seen = Seen.of(opened, limits.prompt(text), *values[1:])
        feature = seen.feature
        if feature is not None and (feature == first or not any(read(opened, seen.prompt).of(feature))):
            feature = None
        return self._arrive(opened, text, None, feature, None, *values[3:])

    def _arrive(self, opened: Opened, text: object, *values: Any) -> View:
        """Read a text and look at what is asked for; where no feature is, at the first of the table."""
        page, seen = self.page, Seen.of(opened, limits.prompt(text), *values[1:])
        reading = read(opened, seen.prompt)
        feature, token, first = seen.feature, seen.token, None
        token = token if token is not None and token < len(reading.pieces) and reading.pieces[token] else None
        if feature is None:
            table, _ = found(opened, reading, seen.order, token, seen.hide)
            feature = first = None if table.empty else int(table.index[0])
        return {
            page.prompt: seen.prompt, self.ran: seen.prompt, self.first: first, page.feature: feature,
            self.token: token, **page.at(prompt=seen.prompt, feature=feature, token=token),
            **self._draw(opened, seen.prompt, feature, token, *values[3:]),
        }  # fmt: skip

    def _sent(self, opened: Opened, ran: str, first: object, *values: Any) -> View:
        """A text that another tab chose."""
        if values[0] == ran or not values[0]:
            return {}
        return {self.box: values[0], **self._run(opened, values[0], first, *values)}

    def _example(self, opened: Opened, data: dict[str, Any], *values: Any) -> View:
        text = EXAMPLES[limits.whole(data.get("example"), "Example", 0, len(EXAMPLES) - 1)]
        return {self.box: text, **self._run(opened, text, *values)}

    def _token(self, opened: Opened, data: dict[str, Any], *values: Any) -> View:
        """Look at one token, at the whole text again, or at no feature."""
        seen, act = Seen.of(opened, *values), data.get("act")
        token, feature = seen.token, seen.feature
        if act == "token":
            last = len(read(opened, seen.prompt).pieces) - 1
            clicked = limits.whole(data.get("token"), "Token", 0, last)
            token = None if clicked == token else clicked
        elif act == "whole":
            token = None
        elif act == "strongest":
            feature = None
        else:
            return {}
        view = self._draw(opened, seen.prompt, feature, token, *values[3:])
        here = {self.page.feature: feature, self.token: token, **self.page.at(feature=feature, token=token)}
        return here | {part: view[part] for part in (self.strip, self.table, self.card)}

    def _sort(self, opened: Opened, *values: Any) -> View:
        order = Seen.of(opened, *values).order
        return self._draw(opened, *values) | self.page.at(order=None if order == "telling" else order)

    def _compare(self, opened: Opened, text: object, *values: Any) -> View:
        second = limits.prompt(text)
        seen = Seen.of(opened, *values[:5], second, values[6])
        return {self.second: second, self.apart: _apart(opened, read(opened, seen.prompt), seen),
                **self.page.at(second=second)}  # fmt: skip

    def _draw(self, opened: Opened, *values: Any) -> View:
        """All that is seen of a text that was read."""
        seen = Seen.of(opened, *values)
        if not seen.prompt:
            return {}
        reading = read(opened, seen.prompt)
        empty = note("Pick a feature in the table to see what it is.", "empty")
        # Nothing is said of a second text until there is one: this may end after the answer that read it.
        apart = {self.apart: _apart(opened, reading, seen)} if seen.second else {}
        return apart | {
            self.strip: pickable(opened, reading, seen.feature, seen.token),
            self.table: fired(opened, reading, seen.feature, seen.order, seen.token, seen.hide),
            self.card: empty if seen.feature is None else card(opened, seen.feature),
            self.following: f"{following(reading)}<h4>What the SAE leaves out</h4>{note(ERROR)}{missed(reading)}",
        }


def _apart(opened: Opened, reading: Reading, seen: Seen) -> str:
    texts = (reading, read(opened, seen.second))
    return side_by_side(opened, texts, seen.feature, seen.over, seen.order, seen.hide)


def _chips() -> str:
    chips = "".join(
        f'<button type="button" class="try" data-act="example" data-example="{i}">{escape(text)}</button>'
        for i, text in enumerate(EXAMPLES)
    )
    return f'<div class="prompt-examples"><span>Try:</span>{chips}</div>'


def _radio(choices: dict[str, str], label: str, name: str) -> Any:
    """Choices by value, as one line."""
    pairs = [(said, value) for value, said in choices.items()]
    return unchecked(gr.Radio(pairs, value=pairs[0][1], label=label, show_label=False, container=False, elem_id=name))
