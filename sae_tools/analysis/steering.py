"""Steer a model: push features of an SAE up, hold or remove them, or add any vector.

A push of strength s moves an activation by s · unit, unit the median norm at the site, along d̂ = d / ‖d‖, the direction
of the latent's decoder row. With c_j the length of what latent j gives to decode(encode(x)) along d̂_j

    add      x + s · unit · d̂_j        clamp    x + (s · unit - c_j) · d̂_j        ablate    x - c_j · d̂_j

so add changes latent j by s · unit / ‖d_j‖, clamp holds it there, ablate at 0, and what the SAE does not explain stays.
Lengths are those in x itself, so this holds too where an SAE normalises each token at run time. One maximum of the
feature as unit would break the text for some features and do nothing for others; 0.4 norms are a good start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from sae_tools.common.errors import SettingError
from sae_tools.models.lm import Patch
from sae_tools.models.sites import Site

if TYPE_CHECKING:
    from sae_tools.saes import SAE

Mode = Literal["add", "clamp", "ablate"]
MODES: tuple[Mode, ...] = ("add", "clamp", "ablate")


@dataclass(frozen=True)
class Push:
    """What is done to one feature."""

    feature: int
    mode: Mode
    strength: float
    """In median norms at the site; ablate has no use for it."""


def steer(sae: SAE[Any], site: Site, pushes: Sequence[Push], unit: float, new_tokens_only: bool = False) -> Patch:
    """A patch that pushes all of these features at once; `unit` is the site's median norm, as `median_norm` measures.

    Raises:
        SettingError: no such feature or mode, a feature named twice, or a number that is not finite.
    """
    from sae_tools.saes import edited  # SAELens takes seconds to import: the page is up before

    _check(pushes, sae.cfg.d_sae, unit)
    moved = [push for push in pushes if push.mode != "ablate"]
    removed = [push.feature for push in pushes if push.mode != "add"]
    amounts = torch.tensor([push.strength * unit for push in moved], device=sae.W_dec.device)
    vector = amounts @ directions(sae, [push.feature for push in moved])

    def edit(acts: Tensor) -> Tensor:
        kept = edited(sae, acts, lambda features: features.index_fill(-1, _ids(removed, acts), 0)) if removed else acts
        return kept + vector.to(acts)

    return Patch(site, edit, new_tokens_only=new_tokens_only)


def steer_by_vector(site: Site, vector: Tensor, new_tokens_only: bool = False) -> Patch:
    """A patch that adds a (d_in,) vector, as long as it is, to every activation.

    Raises:
        SettingError: not a vector of finite numbers; when first used, one of another width than the activations.
    """
    if vector.ndim != 1 or not vector.isfinite().all():
        raise SettingError(
            f"a vector of shape {tuple(vector.shape)} cannot be steered by; give one row of finite numbers."
        )

    def edit(acts: Tensor) -> Tensor:
        if len(vector) != acts.shape[-1]:
            raise SettingError(
                f"the vector has {len(vector)} numbers, but activations at {site.name} have {acts.shape[-1]}; "
                "give a vector of this site."
            )
        return acts + vector.to(acts)

    return Patch(site, edit, new_tokens_only=new_tokens_only)


def directions(sae: SAE[Any], features: Sequence[int]) -> Tensor:
    """(n, d_in) float32 unit directions in which latents move the decoded output; 0 for one that moves nothing."""
    return torch.nn.functional.normalize(sae.W_dec.detach()[_ids(features, sae.W_dec)].float(), dim=-1)


def _ids(features: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(features, dtype=torch.long, device=like.device)


def _check(pushes: Sequence[Push], d_sae: int, unit: float) -> None:
    seen: set[int] = set()
    for push in pushes:
        if not 0 <= push.feature < d_sae:
            raise SettingError(f"feature {push.feature} does not exist; this SAE has features 0 to {d_sae - 1}.")
        if push.feature in seen:
            raise SettingError(f"feature {push.feature} is pushed twice; name each feature once.")
        if push.mode not in MODES:
            raise SettingError(f"mode {push.mode!r} is unknown; use one of: {', '.join(MODES)}.")
        if not abs(push.strength * unit) <= torch.finfo(torch.float32).max:  # also true of what is no number
            raise SettingError(
                f"strength {push.strength} x median norm {unit} is not a finite number; give one between -3 and 3."
            )
        seen.add(push.feature)
