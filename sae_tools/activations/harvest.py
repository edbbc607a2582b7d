"""Language model + tokens -> shards of activations, for several sites in one forward pass that ends at the deepest.

A shard covers a fixed range of blocks and batches begin anew at each, so that its bytes depend on the model, the tokens
and the settings alone: shards can be made by several workers, and after a kill only those that are missing are made.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.activations.shards import Shard, all_finite, is_complete, records
from sae_tools.common.errors import ArtifactError
from sae_tools.common.settings import Harvest
from sae_tools.models.lm import LanguageModel
from sae_tools.models.loading import DTYPES
from sae_tools.models.sites import Site

PART = 4096
"""Blocks whose mask is made at once where all are counted."""


class Mask(Protocol):
    """A boolean tensor (n_blocks, context), or what gives parts of one as they are asked for."""

    def __len__(self) -> int: ...

    def __getitem__(self, blocks: slice, /) -> Tensor: ...


def harvest(
    lm: LanguageModel,
    ids: Tensor,
    wanted: Mask,
    sites: Sequence[Site],
    config: Harvest,
    folder: Path,
    rank: int = 0,
    world: int = 1,
) -> None:
    """Write the activations of (n_blocks, context) ids where the mask `wanted` is true, a subfolder for each site.

    Of the shards, those whose number is `rank` modulo `world` are made here, but for the ones that are complete.

    Raises:
        ArtifactError: an activation is not finite, or the disk is full; complete shards stay.
    """
    size = max(1, config.shard_rows // ids.shape[1])
    blocks = {number: range(len(ids))[number * size :][:size] for number in range(rank, -(-len(ids) // size), world)}
    missing = [number for number in blocks if not all(is_complete(folder / site.name, number) for site in sites)]
    n_blocks, n_missing = sum(map(len, blocks.values())), sum(len(blocks[number]) for number in missing)
    context = ids.shape[1]
    with (
        ThreadPoolExecutor(1) as background,
        tqdm(
            total=n_blocks * context,
            initial=(n_blocks - n_missing) * context,
            desc="harvest",
            unit="tok",
            unit_scale=True,
            disable=rank > 0,
        ) as bar,
    ):
        writing: Future[None] | None = None
        for number in missing:
            shards = _read(lm, ids, wanted, blocks[number], sites, config, number, bar)
            if writing:
                writing.result()
            writing = background.submit(_write, shards, folder)
            del shards  # at most two of them are in memory: one being filled, one being written
        if writing:
            writing.result()


def n_bytes(lm: LanguageModel, wanted: Mask, sites: Sequence[Site], config: Harvest) -> int:
    """Bytes that `harvest` writes for the mask `wanted`."""
    n_rows = sum(int(wanted[first : first + PART].sum()) for first in range(0, len(wanted), PART))
    return n_rows * sum(lm.width(site) for site in sites) * DTYPES[config.dtype].itemsize


def summary(folder: Path, sites: Sequence[Site]) -> tuple[dict[str, Any], dict[str, str]]:
    """What all workers wrote: each site's number of rows and shards, and the sha256 of each shard by its name."""
    about: dict[str, Any] = {}
    digests: dict[str, str] = {}
    for site in sites:
        found = records(folder / site.name)
        about[site.name] = {"n_rows": sum(record.n_rows for record in found.values()), "n_shards": len(found)}
        digests |= {f"{site.name}/{name}": record.sha256 for name, record in found.items()}
    return about, digests


def _read(
    lm: LanguageModel,
    ids: Tensor,
    wanted: Mask,
    blocks: range,
    sites: Sequence[Site],
    config: Harvest,
    number: int,
    bar: tqdm[Any],
) -> dict[str, Shard]:
    """Shard `number` at each site: the activations of a range of blocks, where `wanted` is true."""
    dtype = DTYPES[config.dtype]
    n_rows = int(wanted[blocks.start : blocks.stop].sum())
    shards = {site.name: Shard(n_rows, lm.width(site), dtype, config.seed, number) for site in sites}
    for first in blocks[:: config.batch_size]:
        batch = slice(first, min(first + config.batch_size, blocks.stop))
        acts = lm.activations(ids[batch].long(), sites)
        kept = wanted[batch].flatten().nonzero().squeeze(1)
        for site, shard in shards.items():
            rows = acts[site].flatten(0, 1)[kept.to(lm.device)].to("cpu", dtype)
            _refuse_not_finite(rows, site, kept + first * ids.shape[1], ids.shape[1])
            shard.add(rows)
        bar.update(ids[batch].numel())
    return shards


def _refuse_not_finite(rows: Tensor, site: str, positions: Tensor, context: int) -> None:
    if all_finite(rows):
        return
    position = int(positions[(~torch.isfinite(rows)).any(dim=1)][0])
    raise ArtifactError(
        f"the activation at {site}, block {position // context}, token {position % context}, is not finite in "
        f"{rows.dtype}; use a wider language_model.dtype and harvest.dtype."
    )


def _write(shards: dict[str, Shard], folder: Path) -> None:
    for site, shard in shards.items():
        shard.write(folder / site)
