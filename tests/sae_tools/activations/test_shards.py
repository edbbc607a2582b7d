"""Reading gives every row once an epoch, in an order that is a function of the seed, from any batch on."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_tools.activations import shards as module
from sae_tools.activations.shards import Shard, Shards, all_finite, is_complete, records
from sae_tools.common.errors import ArtifactError


def numbered(n: int) -> Tensor:
    """(n, 3) rows that say which they are: exact in bfloat16 too."""
    i = torch.arange(n)
    return torch.stack([i % 128, i // 128, torch.ones(n)], dim=1).float()


def number(rows: Tensor) -> list[int]:
    return [int(i) for i in rows[:, 0] + 128 * rows[:, 1]]


def write(folder: Path, n: int, shard_rows: int, chunk: int = 10, dtype: torch.dtype = torch.float32) -> Shards:
    for i, rows in enumerate(torch.split(numbered(n), shard_rows)):
        shard = Shard(len(rows), 3, dtype, 5, i)
        for part in torch.split(rows, chunk):
            shard.add(part.to(dtype))
        shard.write(folder)
    return Shards(str(folder))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "shard_rows", "chunk"), [(100, 30, 7), (90, 30, 30), (5, 30, 2), (100, 7, 50)])
def test_every_shard_holds_its_rows(tmp_path: Path, n: int, shard_rows: int, chunk: int, dtype: torch.dtype) -> None:
    shards = write(tmp_path, n, shard_rows, chunk, dtype)
    for i, file in enumerate(shards.files):
        acts = load_file(file)["acts"]
        assert acts.dtype == dtype
        assert sorted(number(acts.float())) == list(range(i * shard_rows, min(n, (i + 1) * shard_rows)))
    assert (shards.n_rows, shards.d_in, len(shards.files)) == (n, 3, -(-n // shard_rows))
    assert sum(record.n_rows for record in records(tmp_path).values()) == n


def test_rows_are_shuffled_within_a_shard_and_bytes_are_equal_in_two_runs(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", 100, 40), write(tmp_path / "2", 100, 40, chunk=33)
    first, second = (number(load_file(file)["acts"]) for file in one.files[:2])
    assert first != sorted(first)
    assert first != [row - 40 for row in second]  # each shard in an order of its own
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


SHAPES = [
    (96, 24, 8),
    (100, 30, 8),
    (100, 30, 30),
    (100, 33, 32),  # a last shard of one row: less than a batch
    (100, 10, 32),  # every shard is less than a batch
    (20, 20, 50),  # all rows are less than a batch
]


@pytest.mark.parametrize(("n", "shard_rows", "batch_size"), SHAPES)
def test_every_epoch_covers_all_rows_once(tmp_path: Path, n: int, shard_rows: int, batch_size: int) -> None:
    shards = write(tmp_path, n, shard_rows)
    epochs = 3
    batches = list(shards.batches(batch_size, epochs * n, seed=0))
    assert [len(batch) for batch in batches] == [batch_size] * -(-epochs * n // batch_size)
    order = number(torch.cat(batches))
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n)), epoch
    assert order[:n] != order[n : 2 * n]


@pytest.mark.parametrize(("n", "shard_rows", "batch_size"), SHAPES)
def test_from_any_batch_on_the_rest_is_the_same(tmp_path: Path, n: int, shard_rows: int, batch_size: int) -> None:
    shards = write(tmp_path, n, shard_rows, dtype=torch.bfloat16)
    whole = list(shards.batches(batch_size, 3 * n + 1, seed=4))
    for first in range(len(whole) + 2):
        tail = list(shards.batches(batch_size, 3 * n + 1, 4, first))
        assert len(tail) == len(whole[first:])
        assert all(torch.equal(a, b) for a, b in zip(tail, whole[first:], strict=True)), first


def test_what_is_skipped_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write(tmp_path, 100, 10)
    opened = []
    safe_open = module.safe_open
    monkeypatch.setattr(module, "safe_open", lambda file, kind: opened.append(file) or safe_open(file, kind))
    assert len(list(shards.batches(10, 1000, 0, 98))) == 2
    assert len(opened) == 2


def test_the_next_shard_is_read_while_one_is_used_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write(tmp_path, 100, 10)
    two = threading.Semaphore(0)
    count = 0
    threads = threading.active_count()
    safe_open = module.safe_open

    def counting(file: Path, kind: str) -> object:
        nonlocal count
        count += 1
        two.release()
        assert threading.current_thread() is not threading.main_thread()
        return safe_open(file, kind)

    monkeypatch.setattr(module, "safe_open", counting)
    batches = shards.batches(5, 100, 0)
    next(batches)
    assert two.acquire(timeout=5)
    assert two.acquire(timeout=5)
    assert not two.acquire(timeout=0.2)
    batches.close()
    assert count == 2
    assert threading.active_count() == threads


def test_a_batch_does_not_keep_its_shard_in_memory(tmp_path: Path) -> None:
    for batch in write(tmp_path, 100, 50).batches(10, 100, 0):
        assert batch.untyped_storage().nbytes() == 10 * 3 * 4


def test_every_shard_is_read_in_an_order_of_its_own(tmp_path: Path) -> None:
    for i in range(2):  # equal shards
        shard = Shard(50, 3, torch.float32, 5, 0)
        shard.number = i
        shard.add(numbered(50))
        shard.write(tmp_path)
    one, two = (number(batch) for batch in Shards(tmp_path).batches(50, 100, 0))
    assert sorted(one) == sorted(two)
    assert one != two


def test_the_order_is_a_function_of_the_seed(tmp_path: Path) -> None:
    shards = write(tmp_path, 100, 30)

    def order(seed: int) -> list[int]:
        torch.rand(3)  # the global generator has no say
        return number(torch.cat(list(shards.batches(10, 200, seed))))

    assert order(0) == order(0)
    assert order(0) != order(1)


def test_a_longer_run_begins_as_a_shorter_one(tmp_path: Path) -> None:
    shards = write(tmp_path, 100, 30)
    short = torch.cat(list(shards.batches(10, 70, 0)))
    assert torch.equal(torch.cat(list(shards.batches(10, 300, 0)))[:70], short)


def test_batches_are_float32_whatever_is_on_disk(tmp_path: Path) -> None:
    shards = write(tmp_path, 100, 30, dtype=torch.bfloat16)
    assert {batch.dtype for batch in shards.batches(10, 100, 0)} == {torch.float32}


def test_a_sample_is_rows_of_the_shards(tmp_path: Path) -> None:
    shards = write(tmp_path, 100, 30)
    for seed in range(5):
        rows = number(shards.sample(12, seed))
        assert len(set(rows)) == len(rows) <= 12
        assert set(rows) <= set(range(100))


def test_a_shard_without_rows_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 20, 10)
    Shard(0, 3, torch.float32, 5, 2).write(tmp_path)
    shards = Shards(tmp_path)
    assert shards.n_rows == 20
    assert sorted(number(torch.cat(list(shards.batches(5, 20, 0))))) == list(range(20))


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no activations"):
        Shards(tmp_path)


def test_a_shard_is_complete_only_with_its_record_and_whole(tmp_path: Path) -> None:
    files = write(tmp_path, 30, 10).files
    assert [is_complete(tmp_path, i) for i in range(4)] == [True, True, True, False]
    files[0].with_suffix(".json").unlink()
    files[1].write_bytes(files[1].read_bytes()[:-1])
    files[2].with_suffix(".json").write_text('{"n_rows": 10}')
    assert not any(is_complete(tmp_path, i) for i in range(3))
    with pytest.raises(ArtifactError, match=r"shard-00000\.json is missing"):
        records(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_one_bad_number_anywhere_is_found_and_large_ones_are_not_bad(dtype: torch.dtype) -> None:
    acts = torch.full((3, 2**21), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(acts)
    for bad in (float("nan"), float("inf"), -float("inf")):
        acts[2, -1] = bad
        assert not all_finite(acts)
    assert not all_finite(torch.tensor([float("inf"), -float("inf")], dtype=dtype))
    assert all_finite(torch.tensor([1]))
