"""Two continuations of one text, as the model is and steered, growing side by side. Knows no Gradio."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from demo.limits import MAX_SECONDS, MAX_TOKENS, Refused
from demo.workbench import Opened
from sae_tools.models.lm import LanguageModel, Patch

EVERY = 2
"""Tokens between two views: to send one is dearer than a small step, but only there is it seen that a visitor left."""


@dataclass(frozen=True)
class Written:
    """Two continuations of one prompt, so far."""

    default: str
    steered: str
    shared: int
    """How many characters at their start are equal."""
    ids: tuple[list[int], list[int]]
    """The tokens of both."""
    over: str = ""
    """Why it ended before its length, where it did."""


def write(
    opened: Opened, lm: LanguageModel, text: str, patch: Patch | None, new_tokens: int, temperature: float, seed: int
) -> Iterator[Written]:
    """Continue a text twice from one seed, as the model is and patched; yields as they grow.

    Raises:
        Refused: the text leaves no room.
    """
    ids = lm.tokens(text)
    room = min(lm.context_size, MAX_TOKENS + new_tokens) - new_tokens
    if ids.shape[1] > room:
        raise Refused(f"The prompt has {ids.shape[1]} tokens; with {new_tokens} new ones only {room} fit. Shorten one.")
    streams = [lm.generate(ids, new_tokens, temperature, seed, change) for change in (None, patch)]
    return _interleave(opened, lm, ids[0].tolist(), streams)


def _interleave(
    opened: Opened, lm: LanguageModel, prompt: list[int], streams: list[Iterator[int]]
) -> Iterator[Written]:
    """Step both streams in turn until both end or the time is up; the turn is held for one step only."""
    deadline = time.monotonic() + MAX_SECONDS
    new: tuple[list[int], list[int]] = ([], [])
    alive = [True, True]
    while any(alive):
        for which, stream in enumerate(streams):
            with opened.turn:
                token = next(stream, None) if alive[which] else None
            alive[which] = token is not None
            new[which].extend([] if token is None else [token])
        late = time.monotonic() > deadline
        over = f"Stopped after {MAX_SECONDS:.0f} seconds, the limit of this page." if late else ""
        if late or not any(alive) or len(new[0]) % EVERY == 0:
            yield _written(lm, prompt, new, over)
        if late:
            return


def _written(lm: LanguageModel, prompt: list[int], new: tuple[list[int], list[int]], over: str) -> Written:
    # Decoded with the prompt: some tokenizers drop the space before the first token of what they decode.
    default, steered = ("".join(lm.pieces(prompt + ids)[len(prompt) :]) for ids in new)
    shared = 0
    while shared < min(len(default), len(steered)) and default[shared] == steered[shared]:
        shared += 1
    return Written(default, steered, shared, (list(new[0]), list(new[1])), over)
