"""Which of two ways of doing a step is faster here: where no measurement tells, the first steps take turns.

Both give the same gradients but for rounding, so a wrong answer costs time alone. Two cores, ms a step, sparse / dense:

    256 -> 4,096, batch 1,024    1% active 45 / 136    4% 66 / 152    8% 114 / 142
    128 -> 1,024, batch 1,024    1% active 11 / 23                    8% 18 / 24
     64 -> 512, batch 128        2% active 2.4 / 3.4                  6% 3.3 / 3.1

So on a CPU the sparse way needs no trial from `MEASURED_FROM` on, below `SPARSE_BELOW`; elsewhere the clock decides.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from sae_tools.training.sparse import SPARSE_BELOW

logger = logging.getLogger(__name__)
TURNS = 5
"""Of each way; the first only warms up."""
MARGIN = 1.1
"""How many times faster the dense way must be to be taken."""
MEASURED_FROM = 2**26
"""batch · d_in · d_sae."""


def is_measured(device: torch.device, work: int, share: float) -> bool:
    """Whether the sparse way is known to be faster: for `work` = batch · d_in · d_sae, a `share` of latents active."""
    return device.type == "cpu" and work >= MEASURED_FROM and share <= SPARSE_BELOW


@dataclass
class Pace:
    """The choice between sparse and dense, and what it was made from. Plain values: a checkpoint keeps them."""

    sparse: bool | None
    """None: not known yet."""
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"sparse": [], "dense": []})
    share: float = 0.0
    """Of the latents: how many fired on a sample when the choice was made."""

    def takes_sparse(self) -> bool:
        """Whether the next step is to be sparse; while it is not known, they take turns, sparse first."""
        if self.sparse is None:
            return len(self.seconds["sparse"]) <= len(self.seconds["dense"])
        return self.sparse

    def note(self, sparse: bool, seconds: float, share: float) -> None:
        """Take a step's time and the share of latents that fired; once that halves, the dense way is tried anew."""
        if self.sparse is None:
            self.seconds["sparse" if sparse else "dense"].append(seconds)
            if min(map(len, self.seconds.values())) == TURNS:
                self._choose(share)
        elif not self.sparse and share < self.share / 2:
            self.sparse, self.seconds = None, {"sparse": [], "dense": []}

    def _choose(self, share: float) -> None:
        best = {way: min(times[1:]) for way, times in self.seconds.items()}
        self.sparse, self.share = best["sparse"] < MARGIN * best["dense"], share
        logger.info(
            "a step takes %.3g ms with sparse products, %.3g ms with SAELens' dense pass: %s from here on",
            1e3 * best["sparse"], 1e3 * best["dense"], "sparse" if self.sparse else "dense",
        )  # fmt: skip


def now(device: Any) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()
