"""All that a page shows of one SAE's features, made and written: the one way for the stage and for the page itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_tools.analysis import store
from sae_tools.analysis.features import describe
from sae_tools.analysis.firings import find_firings
from sae_tools.analysis.gallery import gallery
from sae_tools.analysis.imported import Label
from sae_tools.analysis.norms import median_norm
from sae_tools.analysis.scores import score
from sae_tools.common import distributed
from sae_tools.common.artifacts import new_folder
from sae_tools.common.settings import Features
from sae_tools.models.corpus import Tokens
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

VERSION = 1
"""Of what is written: a folder that was kept with another one is made anew. Counts up when a column comes or goes."""
NORM_BLOCKS = 64
"""Held-out blocks on which the site's median norm is measured."""


def make_tables(
    sae: SAE[Any], lm: LanguageModel, site: Site, tokens: Tokens, config: Features, folder: Path,
    about: dict[str, Any], imported: Mapping[int, Label] | None = None,
) -> None:  # fmt: skip
    """Write the new `folder` that `FeatureStore.open` reads; several processes share the work, and the first writes.

    `about` says what the page needs to load the SAE's models; n_tokens, d_sae and median_norm are put in here.
    `imported` labels, by feature, are shown in place of those made here.
    """
    ids, held_out = tokens.first_train(config.n_tokens), tokens.held_out
    unit = median_norm(lm, site, held_out[:NORM_BLOCKS])
    firings = find_firings(sae, lm, site, ids, config.batch_size)
    tested_on = tokens.first_held_out(config.n_held_out)
    features, examples = describe(
        sae, lm, site, ids, config, held_out=tested_on, firings=firings, imported=imported
    )  # fmt: skip
    scores = score(sae, lm, site, firings, ids, held_out, unit, config)
    if distributed.rank() > 0:
        return
    features = features.join(scores)
    shown = gallery(sae, lm, site, features, unit, config)
    known = {**about, "n_tokens": ids.numel(), "d_sae": sae.cfg.d_sae, "median_norm": unit}
    with new_folder(folder, known) as new:
        store.write(new, features, examples, shown)
