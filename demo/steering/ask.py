"""What a text is continued with, and the answers that need no more than that. Knows no Gradio."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import pandas as pd
from torch import Tensor

from demo import limits
from demo.limits import Refused
from demo.workbench import Opened
from demo.writing import Written, write
from sae_tools.analysis.next_tokens import next_token_changes
from sae_tools.analysis.sweep import sweep
from sae_tools.models.lm import Patch

PROMPT = "Tom was sitting in his room."
"""Leaves room: after "Once upon a time there was a little" the story goes on as it always does."""
SWEPT = (0.0, 0.2, 0.4, 0.6, 0.8)
MOST_SWEPT = 40
"""New tokens of each text of a sweep."""
CHANGES = 8


@dataclass(frozen=True)
class Ask:
    """A text to continue, and how."""

    prompt: str = PROMPT
    new_tokens: int = 60
    temperature: float = 0.7
    seed: int = 0

    @classmethod
    def checked(cls, prompt: object, new_tokens: object, temperature: object, seed: object) -> Ask:
        """From what a browser sent."""
        return cls(
            limits.prompt(prompt), limits.whole(new_tokens, "New tokens", 1, limits.MAX_NEW_TOKENS),
            limits.finite(temperature, "Temperature", 0, 2), limits.whole(seed, "Seed", 0, limits.MAX_SEED),
        )  # fmt: skip


class Source(Protocol):
    """What one steers by."""

    @property
    def opened(self) -> Opened:
        """The SAE and its models."""

    @property
    def new_only(self) -> bool:
        """Whether new tokens alone are changed."""

    @property
    def words(self) -> list[str]:
        """Words that should show up."""

    @property
    def strength(self) -> float:
        """In median norms, with its sign; 0 where there is none to vary."""

    @property
    def site(self) -> str:
        """Where in the model."""

    def patch(self, scale: float = 1.0) -> Patch:
        """The change, `scale` times as strong."""

    def measure(self, start: int) -> Callable[[Tensor], float]:
        """How much of the thing is in a text's (1, n) ids from token `start` on."""

    @property
    def measured(self) -> str:
        """What `measure` gives."""

    @property
    def told(self) -> str:
        """In words; markup of our own."""

    @property
    def said(self) -> dict[str, object]:
        """For the address."""

    @property
    def imports(self) -> list[str]:
        """What `code` needs."""

    @property
    def code(self) -> str:
        """Python that makes `patch` of `sae`, `lm` and `site`."""


def both(source: Source, ask: Ask) -> Iterator[Written]:
    """The text continued with and without the change."""
    opened = source.opened
    patch = _patch(source)
    return write(opened, opened.base, ask.prompt, patch, ask.new_tokens, ask.temperature, ask.seed)


def changes(source: Source, ask: Ask) -> pd.DataFrame:
    """What the change does to the token after the prompt, as `next_token_changes` gives it."""
    opened, patch = source.opened, _patch(source)
    with opened.turn:
        return next_token_changes(opened.base, _read(opened, ask.prompt), patch, CHANGES)


def swept(source: Source, ask: Ask) -> Iterator[pd.DataFrame]:
    """The text at each strength of `SWEPT`, as `sweep` gives it, growing by a row; the turn is held for one text.

    Raises:
        Refused: there is no strength to vary, or the prompt leaves no room.
    """
    if not source.strength:
        raise Refused("There is no strength to vary: add or clamp a feature at a strength other than 0.")
    opened, sign = source.opened, 1 if source.strength > 0 else -1
    ids, length = _read(opened, ask.prompt), min(ask.new_tokens, MOST_SWEPT)
    if ids.shape[1] + length > opened.base.context_size:
        raise Refused(f"The prompt has {ids.shape[1]} tokens and leaves no room for {length} more. Shorten it.")
    source.patch()  # loaded before the turn is taken
    measure = source.measure(ids.shape[1])
    found, deadline = pd.DataFrame(), time.monotonic() + limits.MAX_SECONDS
    for size in SWEPT:
        with opened.turn:
            row = sweep(
                opened.base, ids, [sign * size], lambda strength: source.patch(strength / source.strength), measure,
                length, ask.temperature, ask.seed,
            )  # fmt: skip
        found = pd.concat([found, row], ignore_index=True)
        yield found
        if time.monotonic() > deadline:
            return


def _patch(source: Source) -> Patch:
    """The change, everything that it needs being loaded, before the turn is taken."""
    _ = source.opened.base, source.opened.sae
    return source.patch()


def _read(opened: Opened, prompt: str) -> Tensor:
    ids = opened.base.tokens(prompt)
    room = min(opened.base.context_size - 1, limits.MAX_TOKENS)
    if ids.shape[1] > room:
        raise Refused(f"The prompt has {ids.shape[1]} tokens; at most {room} fit. Shorten it.")
    return ids
