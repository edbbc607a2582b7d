"""How long activations are at a site: the unit in which a push is measured."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_tools.common.errors import InputError
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site


@torch.no_grad()
def median_norm(lm: LanguageModel, site: Site, ids: Tensor, batch_size: int = 16) -> float:
    """Median of ‖x‖ at `site` over the text tokens of (n_blocks, context) ids; special ones are left out.

    Raises:
        InputError: no token of text.
    """
    norms = []
    for batch in torch.split(ids, batch_size):
        acts = lm.activations(batch, [site])[site.name]
        norms.append(acts[lm.is_text(batch)].float().norm(dim=-1))
    found = torch.cat(norms) if norms else torch.empty(0)
    if not len(found):
        raise InputError("the text to measure the median norm on holds no token; give a few words.")
    return float(found.median())
