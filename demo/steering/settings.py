"""The parts that say how a text is continued, and how the address says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from demo import limits
from demo.asked import Asked, numeral
from demo.inputs import unchecked
from demo.steering.ask import Ask
from demo.tab import View

WHERE = [("Everywhere", "everywhere"), ("New tokens only", "new")]
NAMES = ("text", "new_tokens", "temperature", "seed")
"""In the address."""


class Settings:
    """Length, temperature, seed and where to push; the text itself is `prompt`, which stands elsewhere."""

    def __init__(self, prompt: gr.Textbox) -> None:
        usual, most = Ask(), limits.MAX_NEW_TOKENS
        self.prompt = prompt
        self.length = unchecked(gr.Slider(1, most, value=usual.new_tokens, step=1, label="New tokens", min_width=180))
        self.temperature = unchecked(
            gr.Slider(0, 2, value=usual.temperature, step=0.1, label="Temperature", min_width=180)
        )
        self.seed = unchecked(gr.Number(usual.seed, label="Seed", minimum=0, maximum=limits.MAX_SEED, min_width=100))
        self.where = unchecked(gr.Radio(WHERE, value="everywhere", label="Push at", min_width=220))

    @property
    def inputs(self) -> list[Any]:
        """What `read` takes, and what `show` fills."""
        return [self.prompt, self.length, self.temperature, self.seed, self.where]

    def read(self, values: tuple[Any, ...]) -> tuple[Ask, bool]:
        """What is asked for, and whether new tokens alone are pushed; `values` are those of `inputs`."""
        *numbers, where = values
        return Ask.checked(*numbers), _where(where) == "new"

    def show(self, asked: Asked) -> View:
        """What the address says, else what is usual."""
        usual = Ask()
        return {
            self.prompt: asked.get("text", limits.prompt, usual.prompt),
            self.length: asked.get("new_tokens", _whole("New tokens", 1, limits.MAX_NEW_TOKENS), usual.new_tokens),
            self.temperature: asked.get("temperature", _temperature, usual.temperature),
            self.seed: asked.get("seed", _whole("Seed", 0, limits.MAX_SEED), usual.seed),
            self.where: asked.get("at", _where, "everywhere"),
        }  # fmt: skip

    @staticmethod
    def said(ask: Ask, new_only: bool) -> dict[str, object]:
        """For the address: what is not as usual."""
        now, usual = ((each.prompt, each.new_tokens, each.temperature, each.seed) for each in (ask, Ask()))
        said = zip(NAMES, now, usual, strict=True)
        return {name: None if value == plain else value for name, value, plain in said} | {
            "at": "new" if new_only else None
        }


def _whole(what: str, low: int, high: int) -> Callable[[str], int]:
    return lambda value: limits.whole(numeral(value), what, low, high)


def _where(value: object) -> str:
    return limits.choice(value, "Push at", [name for _, name in WHERE])


def _temperature(value: str) -> float:
    try:
        return limits.finite(float(value), "Temperature", 0, 2)
    except ValueError:
        return limits.finite(value, "Temperature", 0, 2)
