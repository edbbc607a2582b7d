"""Language model + tokens -> shards of activations, for several sites in one forward pass that ends at the deepest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.lm import DTYPES, LanguageModel
from sae_tools.settings import Harvest
from sae_tools.shards import ShardWriter
from sae_tools.sites import Site


def harvest(
    lm: LanguageModel, ids: Tensor, wanted: Tensor, sites: Sequence[Site], config: Harvest, folder: Path
) -> dict[str, Any]:
    """Write the activations of (n_blocks, context) ids where the mask `wanted` is true, a subfolder for each site.

    Returns each site's number of rows and shards.
    """
    writers = {
        site.name: ShardWriter(folder / site.name, config.shard_rows, DTYPES[config.dtype], config.seed)
        for site in sites
    }
    with tqdm(total=ids.numel(), desc="harvest", unit="tok", unit_scale=True) as bar:
        for batch, keep in zip(*(torch.split(t, config.batch_size) for t in (ids, wanted)), strict=True):
            acts = lm.activations(batch.long(), sites)
            for site in sites:
                writers[site.name].add(acts[site.name][keep.to(lm.device)])
            bar.update(batch.numel())
    return {name: writer.close() for name, writer in writers.items()}
