"""What processes share, sum up and lay end to end is what one process would have."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sae_tools.common import distributed
from tests.sae_tools import forked


@pytest.mark.parametrize("n", [0, 1, 2, 3, 7, 12])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_piece_of_work_is_one_process_s_and_in_order(n: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    parts = []
    for rank in range(world):
        monkeypatch.setenv("RANK", str(rank))
        parts.append(list(distributed.share(range(10, 10 + n))))
    assert [piece for part in parts for piece in part] == list(range(10, 10 + n))
    assert max(map(len, parts)) <= -(-n // world)
    assert bool(parts[0]) == (n > 0)


def together(out: Path) -> None:
    with distributed.group():
        rank = distributed.rank()
        rows = [torch.full((size, 2), float(rank)) for size in range(1, rank + 2) if rank != 1]  # rank 1 has none
        every = [[0.0] * 2] + [[2.0] * 2] * 6
        assert distributed.cat(rows).tolist() == every
        assert distributed.cat(rows, first_only=True).tolist() == (every if rank == 0 else [])
        for dtype in (torch.bool, torch.int32, torch.int64, torch.float64):
            found = distributed.cat([torch.ones(rank, dtype=dtype)])
            assert (found.dtype, found.tolist()) == (dtype, [1] * 3)
        some = [{"a": torch.tensor([rank]), "b": torch.tensor([[rank / 2]])}] if rank > 0 else []
        found = {name: values.tolist() for name, values in distributed.columns(some).items()}
        assert found == {"a": [1, 2], "b": [[0.5], [1.0]]}
        assert distributed.each({"é": [rank / 3, "x" * rank]}) == [{"é": [i / 3, "x" * i]} for i in range(3)]
        assert distributed.sum_(torch.tensor([rank, 1.5])).tolist() == [3, 4.5]
        (out / str(rank)).touch()


def test_what_three_processes_have_comes_together(tmp_path: Path) -> None:
    assert forked.ranks(3, together, tmp_path) == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 3


def test_one_process_has_its_own() -> None:
    assert distributed.cat([torch.zeros(2), torch.ones(1)]).tolist() == [0, 0, 1]
    assert distributed.each(3) == [3]
    assert distributed.columns([{"a": torch.ones(1)}])["a"].tolist() == [1]
