"""Activations on disk: safetensors shards of rows, each shard a random sample, read in an order that a seed gives.

The blocks of text come shuffled, and rows are permuted within a shard as it is written. Reading permutes the shards and
the rows again for each epoch, as a pure function of (seed, epoch, shard). One shard is in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_tools.errors import ArtifactError


def _generator(*key: int) -> torch.Generator:
    """A generator that depends on all of `key`."""
    seed = 0
    for part in key:
        seed = (seed * 6364136223846793005 + part + 1442695040888963407) % 2**63
    return torch.Generator().manual_seed(seed)


class ShardWriter:
    """Gathers rows (n, d) and writes them to `folder` as shards of `rows` rows."""

    def __init__(self, folder: Path, rows: int, dtype: torch.dtype, seed: int) -> None:
        self.folder, self.rows, self.dtype, self.seed = folder, rows, dtype, seed
        self.waiting: list[Tensor] = []
        self.n_waiting = self.n_written = self.n_shards = 0
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, acts: Tensor) -> None:
        """Take (n, d) activations.

        Raises:
            ArtifactError: one of them is not finite.
        """
        acts = acts.to("cpu", self.dtype)
        if not torch.isfinite(acts).all():
            raise ArtifactError(
                f"activation row {self.n_written + self.n_waiting} or a later one is not finite in {self.dtype}; "
                "use a wider language_model.dtype and harvest.dtype."
            )
        self.waiting.append(acts)
        self.n_waiting += len(acts)
        while self.n_waiting >= self.rows:
            self._write(self.rows)

    def close(self) -> dict[str, Any]:
        """Write what is left and return what a reader needs to know."""
        if self.n_waiting:
            self._write(self.n_waiting)
        return {"n_rows": self.n_written, "n_shards": self.n_shards}

    def _write(self, n: int) -> None:
        rows = torch.cat(self.waiting)
        self.waiting = [rows[n:].clone()]
        self.n_waiting -= n
        order = torch.randperm(n, generator=_generator(self.seed, self.n_shards))
        save_file({"acts": rows[:n][order]}, self.folder / _name(self.n_shards))
        self.n_written += n
        self.n_shards += 1


class Shards:
    """The rows that a `ShardWriter` wrote to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("shard-*.safetensors"))
        if not self.files:
            raise ArtifactError(f"{folder} holds no activations; run `dvc repro harvest`.")
        shapes = [_shape(file) for file in self.files]
        self.n_rows = sum(shape[0] for shape in shapes)
        self.d_in = shapes[0][1]

    def batches(self, batch_size: int, n_tokens: int, seed: int) -> Iterator[Tensor]:
        """(batch_size, d_in) float32 rows, until at least `n_tokens` were given; epochs follow without a seam."""
        left, rest = n_tokens, torch.empty(0, self.d_in)
        epoch = 0
        while left > 0:
            for shard in torch.randperm(len(self.files), generator=_generator(seed, epoch)).tolist():
                rest = torch.cat([rest, self._read(shard, seed, epoch)])
                n_full = len(rest) // batch_size
                for i in range(n_full):
                    if left <= 0:
                        return
                    yield rest[i * batch_size : (i + 1) * batch_size]
                    left -= batch_size
                rest = rest[n_full * batch_size :].clone()
            epoch += 1

    def sample(self, n: int, seed: int) -> Tensor:
        """(up to n, d_in) rows of one shard."""
        return self._read(seed % len(self.files), seed, 0)[:n]

    def _read(self, shard: int, seed: int, epoch: int) -> Tensor:
        with safe_open(self.files[shard], "pt") as file:
            acts = file.get_tensor("acts")
        rows: Tensor = acts[torch.randperm(len(acts), generator=_generator(seed, epoch, shard))].float()
        return rows


def _name(shard: int) -> str:
    return f"shard-{shard:05d}.safetensors"


def _shape(file: Path) -> list[int]:
    with safe_open(file, "pt") as tensors:
        shape: list[int] = tensors.get_slice("acts").get_shape()
    return shape
