"""What a stream gives is what lies on disk after a harvest, in the same order, computed as seldom as can be."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools.activations.harvest import harvest
from sae_tools.activations.order import Reader
from sae_tools.activations.shards import Shards
from sae_tools.activations.stream import Stream
from sae_tools.common import distributed
from sae_tools.common.settings import Harvest
from sae_tools.models.lm import LanguageModel
from tests.conftest import TinyLM
from tests.sae_tools import forked

SITE = "blocks.1.hook_resid_post"
ROWS = 9 * 39 - 3
"""Of nine blocks: all but the begin tokens and three end tokens."""


@pytest.fixture
def work(tiny_lm: TinyLM, ids: Tensor) -> dict[str, Any]:
    """Arguments of a stream of 9 blocks in 5 shards."""
    lm = tiny_lm("llama")
    many = ids.repeat(3, 1)
    many[:, 1] = torch.arange(20, 29)
    return {"lm": lm, "ids": many, "wanted": lm.is_text(many), "site": lm.site(SITE)}


def config(**values: Any) -> Harvest:
    return Harvest(batch_size=3, shard_rows=80, store="none", **values)


def read(stream: Stream, *readers: Reader) -> list[list[Tensor]]:
    found: list[list[Tensor]] = [[] for _ in readers]
    for turn, acts in stream.shards(min(r.start for r in readers), max(r.stop for r in readers)):
        for batches, reader in zip(found, readers, strict=True):
            batches += reader.add(turn, acts)
    return found


@pytest.mark.parametrize("first", [0, 1, 13, 29])
@pytest.mark.parametrize("keep_gb", [0.0, 1.0])
def test_a_reader_of_the_stream_s_seed_reads_what_it_would_from_disk(
    work: dict[str, Any], tmp_path: Path, first: int, keep_gb: float
) -> None:
    disk = tmp_path / "disk"
    harvest(work["lm"], work["ids"], work["wanted"], [work["site"]], config(seed=3), disk)
    expected = [*Shards(disk / SITE).batches(24, 3 * ROWS, 3, first)]
    stream = Stream(**work, config=config(seed=3, keep_gb=keep_gb), folder=tmp_path / "kept")
    (found,) = read(stream, Reader(stream.d_in, 24, 3 * ROWS, 3, first))
    assert len(found) == len(expected) == -(-3 * ROWS // 24) - first
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))


def test_readers_of_other_seeds_sizes_and_lengths_share_a_forward_pass(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    activations = LanguageModel.activations
    monkeypatch.setattr(
        LanguageModel, "activations", lambda lm, ids, sites: (passes.append(len(ids)), activations(lm, ids, sites))[1]
    )
    stream = Stream(**work, config=config(), folder=tmp_path)
    one, other = read(stream, Reader(32, 12, 2 * ROWS, 0), Reader(32, 29, ROWS, 7))
    assert sum(passes) == 2 * 9  # every block once an epoch, not once a reader
    rows = [sorted(torch.cat(batches)[:ROWS].tolist()) for batches in (one, other)]
    assert rows[0] == rows[1]
    assert not torch.cat(one)[:ROWS].equal(torch.cat(other)[:ROWS])
    assert len(one) == -(-2 * ROWS // 12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("shards", "blocks"), [(5, 9), (2, 9 + 2 * 5), (0, 3 * 9)])
def test_shards_are_kept_while_there_is_room_and_then_dropped(
    work: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, blocks: int
) -> None:
    read_blocks: list[int] = []
    activations = LanguageModel.activations
    monkeypatch.setattr(
        LanguageModel, "activations",
        lambda lm, ids, sites: (read_blocks.append(len(ids)), activations(lm, ids, sites))[1],
    )  # fmt: skip
    keep_gb = (shards * 78 * 32 * 2 + 1) / 1e9
    stream = Stream(**work, config=config(keep_gb=keep_gb), folder=tmp_path)
    most, turns = 0, Counter[int]()
    for turn, _ in stream.shards(0, 3 * ROWS):
        turns[turn.shard] += 1
        most = max(most, len(list(tmp_path.glob("*.safetensors"))))
    assert turns == Counter(dict.fromkeys(range(5), 3))
    assert most == shards
    assert abs(sum(read_blocks) - blocks) <= (2 if shards == 2 else 0)  # one of the shards has a single block
    assert not list(tmp_path.iterdir())


def _read_all(work: dict[str, Any], folder: Path, keep_gb: float) -> None:
    with distributed.group():
        stream = Stream(**work, config=config(keep_gb=keep_gb), folder=folder / "kept")
        (found,) = read(stream, Reader(stream.d_in, 24, 2 * ROWS, 1))
        torch.save(found, folder / f"{distributed.rank()}.pt")


@pytest.mark.parametrize("keep_gb", [0.0, 1.0])
def test_processes_share_the_forward_pass_and_all_get_every_row(
    work: dict[str, Any], tmp_path: Path, keep_gb: float
) -> None:
    assert forked.ranks(2, _read_all, work, tmp_path, keep_gb) == [0, 0]
    both = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    assert forked.run(_read_all, work, tmp_path, keep_gb) == 0
    alone = torch.load(tmp_path / "0.pt", weights_only=True)
    for found in both:
        assert all(a.equal(b) for a, b in zip(found, alone, strict=True))
