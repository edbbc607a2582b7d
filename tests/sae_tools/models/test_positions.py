"""Which positions of token blocks give an activation to train on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import Tokens
from sae_tools.models.positions import Positions


def positions(is_text: Tensor, mask: Tensor | None = None, **values: Any) -> Positions:
    """Positions of blocks whose ids are 1 where `is_text` is true."""
    ids = is_text.int()
    return Positions(Dataset("x", **values), Tokens(ids, ids, mask), lambda ids: ids == 1)


def test_trained_positions() -> None:
    is_text = torch.ones(50, 7, dtype=torch.bool)
    is_text[:, 0] = False
    is_text[3, 6] = is_text[4, 3] = False
    assert torch.equal(positions(is_text)[:], is_text)
    middle = positions(is_text, positions="middle")[:]
    assert middle.nonzero().tolist() == [[i, 3] for i in range(50) if i != 4]
    last = positions(is_text, positions="last")[:]
    assert last.nonzero().tolist() == [[i, 6] for i in range(50) if i != 3]


def test_random_positions_are_one_a_block_drawn_by_the_seed() -> None:
    is_text = torch.ones(3000, 6, dtype=torch.bool)
    chosen = positions(is_text, positions="random", seed=1)[:]
    assert (chosen.sum(dim=1) == 1).all()
    assert ((chosen.sum(dim=0) - 500).abs() < 5 * 500**0.5).all()  # evenly: 5 standard deviations
    assert torch.equal(chosen, positions(is_text, positions="random", seed=1)[:])
    assert not torch.equal(chosen, positions(is_text, positions="random", seed=2)[:])


def test_a_mask_takes_the_place_of_what_is_text() -> None:
    is_text, mask = torch.rand(2, 50, 7) < 0.5
    assert torch.equal(positions(is_text, mask)[:], mask)
    assert torch.equal(positions(is_text, mask, positions="last")[:], mask & (torch.arange(7) == 6))


@pytest.mark.parametrize("which", ["all", "middle", "last", "random"])
def test_a_part_is_that_of_the_whole(which: Any) -> None:
    is_text = torch.rand(50, 7) < 0.5
    found = positions(is_text, positions=which)
    assert len(found) == 50
    assert torch.equal(found[11:30], found[:][11:30])
