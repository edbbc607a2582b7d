"""Random numbers as a pure function of what they are for, so that a resumed run draws what it would have drawn."""

from __future__ import annotations

import torch


def generator(*key: int) -> torch.Generator:
    """A generator that depends on every number of `key`."""
    seed = 0
    for part in key:
        seed = (seed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)
