"""Activations on disk: safetensors shards of rows, each shard a random sample, read in an order that a seed gives.

The blocks of text come shuffled, and rows are permuted within a shard as it is written. Reading permutes the shards and
the rows again for each epoch, as a pure function of (seed, epoch, shard). Two shards are in memory at a time: the one
in use, and the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from sae_tools.activations.order import Batcher, Turn, turns
from sae_tools.common.artifacts import new_file, sha256, write_json
from sae_tools.common.draws import generator
from sae_tools.common.errors import ArtifactError
from sae_tools.common.faults import reach


@dataclass(frozen=True)
class Record:
    """What says that a shard is complete: a small file beside it, written after it."""

    n_rows: int
    sha256: str


class Shard:
    """A shard in the making: (n_rows, d) activations, each put at once where the permutation wants it."""

    def __init__(self, n_rows: int, d: int, dtype: torch.dtype, seed: int, number: int) -> None:
        self.acts = torch.zeros(n_rows, d, dtype=dtype)
        self.places = torch.randperm(n_rows, generator=generator(seed, number))
        self.number = number
        self.n_filled = 0

    def add(self, rows: Tensor) -> None:
        """Take the next (n, d) rows."""
        end = self.n_filled + len(rows)
        self.acts[self.places[self.n_filled : end]] = rows
        self.n_filled = end

    def skip(self, n: int) -> None:
        """Leave the next `n` rows 0: another process has them."""
        self.n_filled += n

    def write(self, folder: Path) -> None:
        """Write the shard, then its record.

        Raises:
            ArtifactError: the disk is full.
        """
        path = folder / _name(self.number)
        with new_file(path) as temporary:
            save_file({"acts": self.acts}, temporary)
            record = Record(len(self.acts), sha256(temporary))
        reach("shard-written")
        write_json(path.with_suffix(".json"), asdict(record))
        reach("shard-recorded")


def all_finite(acts: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    if acts.is_floating_point():
        for part in torch.split(acts.flatten(), 2**22):
            # A sum is finite only if all are, and 30 times faster; one that is not may have overflowed.
            if not part.sum(dtype=torch.float32).isfinite() and not part.isfinite().all():
                return False
    return True


def is_complete(folder: Path, number: int) -> bool:
    """Whether `folder` holds this shard, undamaged."""
    path = folder / _name(number)
    try:
        return _record(path).sha256 == sha256(path)
    except (OSError, ArtifactError):
        return False


def read(folder: Path, number: int) -> Tensor:
    """(n_rows, d) the rows of a complete shard."""
    with safe_open(folder / _name(number), "pt") as file:
        acts: Tensor = file.get_tensor("acts")
    return acts


def remove(folder: Path, number: int) -> None:
    """Drop a shard, its record first: what is left is none."""
    path = folder / _name(number)
    path.with_suffix(".json").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def records(folder: Path) -> dict[str, Record]:
    """The record of every shard in `folder`, by the shard's file name.

    Raises:
        ArtifactError: a shard has none.
    """
    return {path.name: _record(path) for path in sorted(folder.glob("shard-*.safetensors"))}


def _record(shard: Path) -> Record:
    path = shard.with_suffix(".json")
    try:
        values = json.loads(path.read_text())
        return Record(int(values["n_rows"]), str(values["sha256"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(f"{path} is missing or no record of a shard; run `dvc repro` to make it again.") from None


def _name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


class Shards:
    """The rows of a folder of shards."""

    def __init__(self, folder: Path | str) -> None:
        shapes = {file: _shape(file) for file in sorted(Path(folder).glob("shard-*.safetensors"))}
        self.files = [file for file, (n, _) in shapes.items() if n]
        if not self.files:
            raise ArtifactError(f"{folder} holds no activations; run `dvc repro harvest`.")
        self.sizes = [shapes[file][0] for file in self.files]
        self.n_rows = sum(self.sizes)
        self.d_in = shapes[self.files[0]][1]

    def batches(self, batch_size: int, n_tokens: int, seed: int, first: int = 0) -> Iterator[Tensor]:
        """(batch_size, d_in) float32 rows, until at least `n_tokens` were given; epochs follow without a seam.

        Begins with batch number `first`, as if those before had been given; their shards are not read. The next shard
        is read in a thread of its own while one is used.
        """
        start, stop = first * batch_size, -(-n_tokens // batch_size) * batch_size
        batcher = Batcher(batch_size, self.d_in)
        reads = (partial(self._read, t.shard, t.rows(seed, start, stop)) for t in turns(self.sizes, start, stop, seed))
        with closing(_ahead(reads)) as shards:
            for rows in shards:
                yield from batcher.add(rows)
                del rows  # or it would stay in memory while the one after the next is read

    def sample(self, n: int, seed: int) -> Tensor:
        """(up to n, d_in) float32 rows of one shard."""
        shard = seed % len(self.files)
        return self._read(shard, Turn(0, shard, 0, self.sizes[shard]).rows(seed, 0, n)).float()

    def _read(self, shard: int, rows: Tensor) -> Tensor:
        """(n, d_in) what a shard holds in (n,) rows."""
        with safe_open(self.files[shard], "pt") as file:
            found: Tensor = file.get_tensor("acts")[rows]
        return found


def _ahead(calls: Iterable[Callable[[], Tensor]]) -> Generator[Tensor, None, None]:
    """The result of each call, the next one being made in a background thread."""
    with ThreadPoolExecutor(1) as background:
        coming = None
        for call in calls:
            ready = coming and coming.result()
            coming = background.submit(call)
            if ready is not None:
                yield ready
        if coming:
            yield coming.result()


def _shape(file: Path) -> list[int]:
    with safe_open(file, "pt") as tensors:
        shape: list[int] = tensors.get_slice("acts").get_shape()
    return shape
