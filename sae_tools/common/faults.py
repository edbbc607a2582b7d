"""Points at which a test may kill the process as a power cut would; outside tests they do nothing.

`SAE_TOOLS_FAULT="shard-written:3"` kills the process when it reaches that point for the third time; under torchrun only
in the first attempt, so that a restart goes on.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

POINTS = (
    "file-before-rename",
    "file-written",
    "shard-written",
    "shard-recorded",
    "manifest-written",
    "folder-before-rename",
    "folder-between-renames",
    "folder-renamed",
    "step",
    "checkpoint-before-rename",
    "checkpoint-written",
    "before-save",
)

_reached: Counter[str] = Counter()


def reach(point: str) -> None:
    """Die here if SAE_TOOLS_FAULT says so."""
    wanted, _, nth = os.environ.get("SAE_TOOLS_FAULT", "").partition(":")
    assert point in POINTS, point
    assert wanted in ("", *POINTS), wanted
    if point == wanted and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        _reached[point] += 1
        if _reached[point] == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
