"""Shards as the model makes them, for any number of readers, with nothing stored: one forward pass a shard and epoch.

A shard here has the bytes that `harvest` would write, and shards come in the order in which a reader of the stream's
seed would read them from disk. So a run that goes on needs no more than its position: the shard in which it stands is
made again. With `keep_gb` shards stay on disk from one epoch to the next, as many as that holds, until no reader needs
them any more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.activations.harvest import Mask, divided, read_shard
from sae_tools.activations.order import Turn, turns
from sae_tools.activations.shards import is_complete, read, remove
from sae_tools.common import distributed
from sae_tools.common.settings import Harvest
from sae_tools.models.lm import LanguageModel
from sae_tools.models.loading import DTYPES
from sae_tools.models.sites import Site


class Stream:
    """The activations at a site of (n_blocks, context) ids where the mask `wanted` is true.

    Under torchrun each process reads its part of a shard's blocks, and all get the whole shard. Shards that are kept
    lie in `folder`.
    """

    def __init__(self, lm: LanguageModel, ids: Tensor, wanted: Mask, site: Site, config: Harvest, folder: Path) -> None:
        self._lm, self._ids, self._wanted, self._site, self._config = lm, ids, wanted, site, config
        self._folder = folder
        self._blocks = divided(len(ids), ids.shape[1], config)
        self.sizes = [int(wanted[blocks.start : blocks.stop].sum()) for blocks in self._blocks]
        self.d_in = lm.width(site)
        self._kept = {number for number in range(len(self.sizes)) if is_complete(folder, number)}
        distributed.barrier()  # before the first of them is dropped

    def shards(self, start: int, stop: int) -> Iterator[tuple[Turn, Tensor]]:
        """Each turn that holds positions from `start` to `stop`, and its shard's (n_rows, d_in) rows.

        Raises:
            ArtifactError: an activation is not finite, or the disk is full.
        """
        coming = list(turns(self.sizes, start, stop, self._config.seed))
        needed = Counter(turn.shard for turn in coming)
        total = sum(len(self._blocks[turn.shard]) for turn in coming) * self._ids.shape[1]
        with tqdm(total=total, desc="stream", unit="tok", unit_scale=True, disable=distributed.rank() > 0) as bar:
            for turn in coming:
                needed[turn.shard] -= 1
                yield turn, self._take(turn.shard, needed[turn.shard] > 0, bar)

    def _take(self, number: int, needed_again: bool, bar: tqdm[None]) -> Tensor:
        """The rows of a shard, kept on disk from now on if they are needed again and there is room."""
        first = distributed.rank() == 0
        if number in self._kept:
            acts = read(self._folder, number)
            bar.update(len(self._blocks[number]) * self._ids.shape[1])
            distributed.barrier()
            if not needed_again:
                self._kept.remove(number)
                if first:
                    remove(self._folder, number)
            return acts
        shard = read_shard(
            self._lm, self._ids, self._wanted, self._blocks[number], [self._site], self._config, number, bar,
            distributed.rank(), distributed.world(),
        )[self._site.name]  # fmt: skip
        # Byte by byte: what one process has read is 0 in all others.
        distributed.greatest_(shard.acts.view(torch.uint8))
        if needed_again and sum(map(self._n_bytes, {*self._kept, number})) <= self._config.keep_gb * 1e9:
            if first:
                shard.write(self._folder)
            self._kept.add(number)
            distributed.barrier()
        return shard.acts

    def _n_bytes(self, number: int) -> int:
        return self.sizes[number] * self.d_in * DTYPES[self._config.dtype].itemsize
