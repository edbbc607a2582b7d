"""An SAE from elsewhere: the model and site that it says it is for, and how well it fits the ones it is given."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.common.errors import InputError
from sae_tools.metrics.reconstruction import Moments
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.models.sources import OWNERS, TRANSFORMER_LENS
from sae_tools.saes import SAE


def origin(sae: SAE[Any]) -> tuple[str, str]:
    """Hub id (or folder) of the model and name of the site that an SAE's metadata names, "" where it names none."""
    metadata = sae.cfg.metadata
    return hub_id(str(metadata.get("model_name") or "")), str(metadata.get("hook_name") or "")


def hub_id(name: str) -> str:
    """The Hub id of a model that goes by a short name of TransformerLens' (`gpt2-small`); another name as it is.

    Of a model that only TransformerLens has (`gelu-1l`), the name by which it is loaded here.
    """
    from transformer_lens.supported_models import MODEL_ALIASES

    known = {alias.lower(): official for official, aliases in MODEL_ALIASES.items() for alias in aliases}
    official = known.get(name.lower(), name)
    return f"{TRANSFORMER_LENS}{name}" if official.startswith(OWNERS) else official


@torch.no_grad()
def fit(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> dict[str, float]:
    """explained_variance and l0 of an SAE over the text tokens of (n_blocks, context) ids, as `evaluate` has them.

    Raises:
        InputError: an activation, or what the SAE makes of it, is not finite.
    """
    moments, fired = Moments(lm.width(site)), 0
    for batch in tqdm(torch.split(ids.long(), batch_size), desc="fit"):
        x = lm.activations(batch, [site])[site.name][lm.is_text(batch).to(lm.device)]
        features = sae.encode(x.to(sae.dtype))
        x_hat = sae.decode(features)
        if not bool(torch.isfinite(x).all() & torch.isfinite(x_hat).all()):
            raise InputError(
                f"at {site.name} of {lm.name!r} an activation, or what the SAE makes of it, is not finite; "
                "check the SAE's weights and the model's dtype."
            )
        moments.add(x.float(), x_hat.float())
        fired += int((features != 0).sum())
    return {"explained_variance": moments.explained_variance(), "l0": fired / moments.n}
