"""SIGTERM and Ctrl-C as a wish to stop: work that can be saved ends at the next good moment instead of anywhere."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Wish:
    signal: int = 0
    """The signal that came; 0 for none."""

    def leave(self) -> None:
        """End the process as the signal would have: exit code 143 for SIGTERM, 130 for Ctrl-C."""
        raise SystemExit(128 + self.signal)


@contextmanager
def deferred() -> Iterator[Wish]:
    """Note SIGTERM and SIGINT, in the main thread, for as long as the block lasts. A second one acts at once."""
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return

    def note(number: int, _: FrameType | None) -> None:
        if wish.signal:
            wish.leave()
        wish.signal = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
