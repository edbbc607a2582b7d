"""What several tests of features share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


@pytest.fixture(scope="module")
def blocks(ids: Tensor) -> Tensor:
    """(12, 40) blocks: those of `ids`, and shifted ones."""
    return torch.cat([torch.cat([ids[:, :1], ids[:, 1:].roll(i, dims=1)], dim=1) for i in range(4)]).int()
