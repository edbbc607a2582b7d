"""Reading gives every row once an epoch, in an order that is a function of the seed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_tools.errors import ArtifactError
from sae_tools.shards import Shards, ShardWriter


def numbered(n: int) -> Tensor:
    """(n, 3) rows that say which they are: exact in bfloat16 too."""
    i = torch.arange(n)
    return torch.stack([i % 128, i // 128, torch.ones(n)], dim=1).float()


def number(rows: Tensor) -> list[int]:
    return [int(i) for i in rows[:, 0] + 128 * rows[:, 1]]


def write(folder: Path, n: int, shard_rows: int, chunk: int = 10, dtype: torch.dtype = torch.float32) -> Shards:
    writer = ShardWriter(folder, shard_rows, dtype, seed=5)
    for part in torch.split(numbered(n), chunk):
        writer.add(part)
    about = writer.close()
    shards = Shards(folder)
    assert about == {"n_rows": n, "n_shards": len(shards.files)}
    return shards


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("n", "shard_rows", "chunk"), [(100, 30, 7), (90, 30, 30), (5, 30, 2), (100, 7, 50)])
def test_all_rows_are_on_disk_in_shards_of_equal_size(
    tmp_path: Path, n: int, shard_rows: int, chunk: int, dtype: torch.dtype
) -> None:
    shards = write(tmp_path, n, shard_rows, chunk, dtype)
    tensors = [load_file(file)["acts"] for file in shards.files]
    assert [len(t) for t in tensors] == [shard_rows] * (n // shard_rows) + [n % shard_rows] * (n % shard_rows > 0)
    assert {t.dtype for t in tensors} == {dtype}
    assert sorted(number(torch.cat(tensors).float())) == list(range(n))
    assert (shards.n_rows, shards.d_in) == (n, 3)


def test_rows_are_shuffled_within_a_shard_and_bytes_are_equal_in_two_runs(tmp_path: Path) -> None:
    one, two = write(tmp_path / "1", 100, 40), write(tmp_path / "2", 100, 40, chunk=33)
    first = number(load_file(one.files[0])["acts"])
    assert sorted(first) == list(range(40))
    assert first != list(range(40))
    assert [f.read_bytes() for f in one.files] == [f.read_bytes() for f in two.files]


@pytest.mark.parametrize(
    ("n", "shard_rows", "batch_size"),
    [
        (96, 24, 8),
        (100, 30, 8),
        (100, 30, 30),
        (100, 33, 32),  # a last shard of one row: less than a batch
        (100, 10, 32),  # every shard is less than a batch
        (20, 20, 50),  # all rows are less than a batch
    ],
)
def test_every_epoch_covers_all_rows_once(tmp_path: Path, n: int, shard_rows: int, batch_size: int) -> None:
    shards = write(tmp_path, n, shard_rows)
    epochs = 3
    batches = list(shards.batches(batch_size, epochs * n, seed=0))
    assert [len(batch) for batch in batches] == [batch_size] * -(-epochs * n // batch_size)
    order = number(torch.cat(batches))
    for epoch in range(epochs):
        assert sorted(order[epoch * n : (epoch + 1) * n]) == list(range(n)), epoch
    assert order[:n] != order[n : 2 * n]


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


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_row_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    writer = ShardWriter(tmp_path, 10, torch.float32, 0)
    writer.add(torch.zeros(4, 3))
    rows = torch.zeros(4, 3)
    rows[2, 1] = bad
    with pytest.raises(ArtifactError, match=r"row 4 or a later one is not finite"):
        writer.add(rows)


def test_a_value_beyond_the_precision_on_disk_is_refused(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path, 10, torch.float16, 0)
    with pytest.raises(ArtifactError, match="not finite"):
        writer.add(torch.full((4, 3), 1e5))  # float16 ends at 65,504


def test_a_folder_without_shards_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no activations"):
        Shards(tmp_path)
