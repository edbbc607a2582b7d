"""Which precision multiplies matrices fastest on this machine."""

from __future__ import annotations

import functools
import logging
import time
from typing import Literal

import torch

logger = logging.getLogger(__name__)
GAIN = 1.5
"""How much faster bfloat16 must be to be worth its rounding. Processors with instructions for it gain 2 to 3, others
emulate it up to 200 times slower."""


def product_dtype(wanted: Literal["auto", "float32", "bfloat16"], device: torch.device) -> torch.dtype:
    """The precision of an encoder's product: as wanted, or where left open by what `device` gains from bfloat16."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    return _fastest(device)


@functools.cache
def _fastest(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    wide, narrow = _seconds(torch.float32), _seconds(torch.bfloat16)
    chosen = torch.bfloat16 if wide > GAIN * narrow else torch.float32
    logger.info("bfloat16 products are %.2g times as fast as float32 here: %s", wide / narrow, chosen)
    return chosen


def _seconds(dtype: torch.dtype) -> float:
    """Shortest of three products, after a first one that sets things up."""
    a, b = (torch.ones(shape, dtype=dtype) for shape in ((128, 512), (512, 512)))
    times = []
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return min(times[1:])
