"""Averages over more tokens than memory holds: each takes batch after batch, in float64.

Of several processes that took a part of the batches each calls `pool` at the end, once, and has the averages of all.
"""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
import torch
from torch import Tensor

from sae_tools.common import distributed


def ratio(part: float, whole: float) -> float:
    """part / whole, 0 where there is nothing to divide by: an SAE that never fires, a site that does not matter."""
    return part / whole if whole else 0.0


class Means:
    """Running means by name, each over its own number of values."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, values: dict[str, Tensor]) -> None:
        for name, tensor in values.items():
            self.sums[name] += tensor.double().sum().item()
            self.counts[name] += tensor.numel()

    def pool(self) -> None:
        every = distributed.each([self.sums, self.counts])
        self.sums, self.counts = defaultdict(float), defaultdict(int)
        for sums, counts in every:
            for name in sums:
                self.sums[name] += sums[name]
                self.counts[name] += counts[name]

    def mean(self) -> dict[str, float]:
        return {name: self.sums[name] / self.counts[name] for name in self.sums}


class Histogram:
    """How many values lie in each of `n` equal steps from `low` to `high`; what lies outside counts at the ends."""

    def __init__(self, low: float, high: float, n: int) -> None:
        self.edges = torch.linspace(low, high, n + 1, dtype=torch.float64)
        self.counts = torch.zeros(n, dtype=torch.long)

    def add(self, values: Tensor) -> None:
        low, high, n = float(self.edges[0]), float(self.edges[-1]), len(self.counts)
        steps = ((values.flatten().double() - low) / (high - low) * n).floor().clamp(0, n - 1)
        self.counts += torch.bincount(steps.long().cpu(), minlength=n)

    def pool(self) -> None:
        distributed.sum_(self.counts)

    def table(self) -> pd.DataFrame:
        """Column tokens, index the lower edges of the steps that hold any."""
        index = pd.Index(self.edges[:-1].numpy(), name="from")
        found = pd.DataFrame({"tokens": self.counts.numpy()}, index=index)
        return found[found["tokens"] > 0]

    def percentile(self, share: float) -> float:
        """The lower edge of the step in which that share of the values is reached: exact for whole steps."""
        reached = self.counts.cumsum(0) >= share * int(self.counts.sum())
        return float(self.edges[int(reached.nonzero()[0])])
