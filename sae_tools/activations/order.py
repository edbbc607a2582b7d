"""In which order rows are read: shards and their rows are permuted anew for each epoch, by (seed, epoch, shard) alone.

Epochs are laid end to end without a seam; a row's place in that line is its position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_tools.common.draws import generator


@dataclass(frozen=True)
class Turn:
    """One shard's turn in one epoch."""

    epoch: int
    shard: int
    at: int
    """Position of its first row."""
    n_rows: int

    def rows(self, seed: int, start: int, stop: int) -> Tensor:
        """(n,) which of the shard's rows a reader of this seed takes, in its order, from position `start` to `stop`."""
        order = torch.randperm(self.n_rows, generator=generator(seed, self.epoch, self.shard))
        return order[max(start - self.at, 0) : max(stop - self.at, 0)]


def turns(sizes: Sequence[int], start: int, stop: int, seed: int) -> Iterator[Turn]:
    """The turns that hold the positions from `start` to `stop`, of shards of these `sizes`."""
    n_rows = sum(sizes)
    epoch = start // n_rows
    at = epoch * n_rows
    while at < stop:
        for shard in torch.randperm(len(sizes), generator=generator(seed, epoch)).tolist():
            if start < at + sizes[shard] and at < stop:
                yield Turn(epoch, shard, at, sizes[shard])
            at += sizes[shard]
        epoch += 1


class Batcher:
    """Rows as they come, cut into batches: what is left over opens the next batch."""

    def __init__(self, batch_size: int, d_in: int) -> None:
        self._size, self._rest = batch_size, torch.empty(0, d_in)

    def add(self, rows: Tensor) -> Iterator[Tensor]:
        """The (batch_size, d_in) float32 batches that the next (n, d_in) rows complete."""
        rest = self._rest
        batch = rest
        for begin in range(-len(rest), len(rows), self._size):
            # A copy: who keeps a batch does not keep its shard.
            batch = rows[max(0, begin) : begin + self._size].to(torch.float32, copy=True)
            if begin < 0:
                batch = torch.cat([rest, batch])
            if len(batch) == self._size:
                yield batch
        self._rest = batch if len(batch) < self._size else batch[:0]


class Reader:
    """The batches (batch_size, d_in) of one SAE out of a stream of shards, from number `first` on, in its own order.

    With the stream's seed, and batches of shards on disk, they are the same: `Shards.batches`.
    """

    def __init__(self, d_in: int, batch_size: int, n_tokens: int, seed: int, first: int = 0) -> None:
        self.start, self.stop = first * batch_size, -(-n_tokens // batch_size) * batch_size
        self._seed, self._batcher = seed, Batcher(batch_size, d_in)

    def add(self, turn: Turn, acts: Tensor) -> Iterator[Tensor]:
        """The batches that this shard completes."""
        if turn.at < self.stop and self.start < turn.at + turn.n_rows:
            yield from self._batcher.add(acts[turn.rows(self._seed, self.start, self.stop)])
