"""Sparsity by its target: the coefficient of the sparsity loss is steered until as many latents fire as was asked for.

With e = ln(L0 / target), L0 a running mean, clipped to ±1, the coefficient is multiplied by exp(P · e + I · Σ e): a
proportional-integral controller. I is such that an e of 1 through the whole run would move the coefficient by e^20,
and at most 0.02 a step: latents follow the coefficient some tens of steps behind. As the learning rate falls they
follow more slowly, and I grows. Control begins when the coefficient's own warm-up ends.
"""

from __future__ import annotations

import logging
import math

import torch
from torch import Tensor

logger = logging.getLogger(__name__)
GAIN = 20.0
PROPORTIONAL = 0.5
FASTEST = 0.02
MOST_HASTE = 3.0
RANGE = 8.0
"""The integral stays within e^±8: what does not answer to that will not answer to more."""
MEMORY = 0.9
"""Of the running mean: the last ten steps decide."""
EARLY = 0.1
"""Part of the run after which an L0 that has not moved is told of."""


class Controller:
    """Factor of an SAE's sparsity coefficient; its state is a tensor, for checkpoints."""

    def __init__(self, target: float, n_steps: int, first_step: int) -> None:
        self.target, self.n_steps, self.first_step = target, n_steps, first_step
        self.state = torch.tensor([math.nan, 0.0, math.nan], dtype=torch.float64)
        """Running mean of L0, Σ e · I, and L0 when control began."""

    @property
    def factor(self) -> float:
        """By which the coefficient is multiplied now."""
        l0, integral, _ = self.state.tolist()
        return math.exp(integral + PROPORTIONAL * self._error(l0)) if math.isfinite(l0) else 1.0

    def note(self, step: int, l0: Tensor, lr_share: float) -> None:
        """Learn how many latents fired in `step`, whose learning rate was `lr_share` of the full one."""
        if step < self.first_step:
            return
        mean, integral, begin = self.state.tolist()
        mean = MEMORY * mean + (1 - MEMORY) * float(l0) if math.isfinite(mean) else float(l0)
        begin = begin if math.isfinite(begin) else mean
        gain = min(GAIN / self.n_steps, FASTEST) / max(lr_share, 1 / MOST_HASTE)
        integral = max(-RANGE, min(RANGE, integral + gain * self._error(mean)))
        self.state = torch.tensor([mean, integral, begin], dtype=torch.float64)
        if step - self.first_step == max(50, int(EARLY * self.n_steps)):
            self._tell(mean, begin)

    def _error(self, l0: float) -> float:
        return max(-1.0, min(1.0, math.log(max(l0, 1e-3) / self.target)))

    def _tell(self, l0: float, begin: float) -> None:
        here, start, goal = (math.log(max(value, 1e-3)) for value in (l0, begin, self.target))
        nearer = math.copysign(1.0, goal - start) * (here - start)
        if abs(here - goal) > 0.5 and nearer < 0.05:
            logger.warning(
                "L0 is %.1f and has hardly moved from %.1f towards target_l0 = %g, though the coefficient was "
                "multiplied by %.3g: raise lr, or the architecture's own options are too stiff",
                l0, begin, self.target, self.factor,
            )  # fmt: skip
