"""On a ZeroGPU Space a model runs only inside what `spaces.GPU` decorates; anywhere else nothing here does anything.

Such a function runs in a process that is forked from this one when it is first asked, with a GPU attached: values and
answers are pickled, and what it remembers stays there. All answers share two of them, one that returns and one that
streams, and with them the process and what it has read. What a model is loaded into must be loaded before the page is
launched, by the main thread: then it is moved to the GPU as each process begins.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from demo.limits import MAX_SECONDS

Answer = Callable[..., Any]
ON = os.environ.get("SPACES_ZERO_GPU", "").lower() in ("1", "t", "true") and find_spec("spaces") is not None
"""Whether this is a ZeroGPU Space."""
SECONDS = int(MAX_SECONDS) + 10
"""Of a GPU that one answer may take: the longest one, and the way to it. Shorter ones wait less in the queue."""

_answers: list[Answer] = []
"""What runs a model; made before any process is forked, since a function cannot be pickled."""


def _once(which: int, *values: Any) -> Any:
    return _answers[which](*values)


def _stream(which: int, *values: Any) -> Iterator[Any]:
    yield from _answers[which](*values)


if ON:  # at import: `spaces` stands in for CUDA from here on
    _gpu: Any = importlib.import_module("spaces").GPU
    _once, _stream = _gpu(duration=SECONDS)(_once), _gpu(duration=SECONDS)(_stream)


def on_gpu(answer: Answer) -> Answer:
    """`answer`, a function or a generator, to run where the GPU is; its values and answers can be pickled."""
    if not ON:
        return answer
    which = len(_answers)
    _answers.append(answer)
    if inspect.isgeneratorfunction(answer):

        @functools.wraps(answer)
        def streamed(*values: Any) -> Iterator[Any]:
            yield from _stream(which, *values)

        return streamed

    @functools.wraps(answer)
    def once(*values: Any) -> Any:
        return _once(which, *values)

    return once
