"""Steer a model with one feature of an SAE: push it up, hold it at a value, or remove it.

With f = encode(x) and m the feature's own maximum, feature j becomes

    add      f_j + strength · m        clamp    strength · m        ablate    0

and x changes by decode(new f) - decode(f): what the SAE does not explain stays as it is.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor

from sae_tools.common.errors import SettingError
from sae_tools.models.lm import Patch
from sae_tools.models.sites import Site
from sae_tools.saes import SAE, edited

Mode = Literal["add", "clamp", "ablate"]
MODES: tuple[Mode, ...] = ("add", "clamp", "ablate")


def steer(sae: SAE[Any], site: Site, feature: int, mode: Mode, strength: float, maximum: float) -> Patch:
    """A patch that steers with one feature; `strength` is in units of `maximum`, the feature's largest activation.

    Raises:
        SettingError: no such feature or mode, or a strength that is not finite.
    """
    if not 0 <= feature < sae.cfg.d_sae:
        raise SettingError(f"feature {feature} does not exist; this SAE has features 0 to {sae.cfg.d_sae - 1}.")
    if mode not in MODES:
        raise SettingError(f"mode {mode!r} is unknown; use one of: {', '.join(MODES)}.")
    if not math.isfinite(strength) or not math.isfinite(strength * maximum):
        raise SettingError(
            f"strength {strength} x maximum {maximum} is not a finite number; give one between -10 and 10."
        )

    def edit(features: Tensor) -> Tensor:
        features = features.clone()
        amount = 0.0 if mode == "ablate" else strength * maximum
        features[..., feature] = features[..., feature] + amount if mode == "add" else amount
        return features

    return Patch(site, lambda acts: edited(sae, acts, edit))
