"""All that a page shows of one SAE's features, made and written: the one way for the stage and for the page itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from sae_tools.analysis.features import describe
from sae_tools.common.artifacts import new_folder
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

VERSION = 1
"""Of what is written: a folder that was kept with another one is made anew. Counts up when a column comes or goes."""


def make_tables(
    sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, held_out: Tensor, config: Features, folder: Path,
    about: dict[str, Any],
) -> None:  # fmt: skip
    """Write the new `folder` that `FeatureStore.open` reads, from (n_blocks, context) `ids` and `held_out` ids.

    `about` says what the page needs to load the SAE's models; d_sae and n_tokens are put in here.
    """
    features, examples = describe(sae, lm, site, ids, config)
    with new_folder(folder, {**about, "n_tokens": ids.numel(), "d_sae": sae.cfg.d_sae}) as new:
        features.to_parquet(new / "features.parquet", compression="zstd")
        examples.to_parquet(new / "examples.parquet", compression="zstd")
