"""From one SAE's weights to another's: where training goes on from, latents that stay, latents that are added."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from sae_tools.common.errors import SettingError
from sae_tools.saes import SAE, TrainingSAE


@torch.no_grad()
def begin_from(sae: TrainingSAE[Any], start: SAE[Any], scale: float) -> None:
    """Give `sae`, which trains on rows multiplied by `scale`, the weights of `start`, which is for rows as they are.

    BatchTopK SAEs are saved as JumpReLU with one threshold for all latents: the mean is taken over.

    Raises:
        SettingError: they differ in size, or `start` lacks a weight of `sae`.
    """
    weights, normalise = dict(start.state_dict()), sae.cfg.normalize_activations
    if hasattr(sae, "topk_threshold") and "threshold" in weights:
        weights["topk_threshold"] = weights.pop("threshold").double().mean()
    for name, tensor in sae.state_dict().items():
        if name not in weights or weights[name].shape != tensor.shape:
            found = f"has {name} {tuple(weights[name].shape)}" if name in weights else f"has no {name}"
            raise SettingError(
                f"the SAE to start from {found}, but {sae.cfg.architecture()} needs {tuple(tensor.shape)}; "
                "give one of the recipe's architecture and size."
            )
        tensor.copy_(weights[name])
    if scale != 1.0:
        sae.fold_activation_norm_scaling_factor(1 / scale)
        sae.cfg.normalize_activations = normalise


@torch.no_grad()
def copy_latents(source: SAE[Any], target: SAE[Any], n: int) -> None:
    """Give the first `n` latents of `target` the very numbers of `source`, and `target` its b_dec.

    A weight that only one of them has stays.
    """
    weights = dict(source.named_parameters())
    for name, parameter in target.named_parameters():
        if name in weights:
            own = latents_of(name, parameter, slice(n))
            own.copy_(latents_of(name, weights[name], slice(n)))


@torch.no_grad()
def widened(sae: SAE[Any], directions: Tensor, **changes: Any) -> SAE[Any]:
    """`sae` with further latents, whose encoder and decoder rows are (n, d_in) unit `directions` of its mean norms.

    Their biases are 0, other weights the mean of its own. `changes` go into the configuration.
    """
    d_sae = sae.cfg.d_sae
    wide: SAE[Any] = SAE.from_dict(deepcopy(sae.cfg.to_dict()) | changes | {"d_sae": d_sae + len(directions)})
    own = dict(sae.named_parameters())
    for name, parameter in wide.named_parameters():
        new = latents_of(name, parameter, slice(d_sae, None))
        if name == "W_dec":
            new.copy_(directions * own[name].norm(dim=1).mean())
        elif name == "W_enc":
            new.copy_((directions * own[name].norm(dim=0).mean()).T)
        elif name != "b_dec":
            new.fill_(0.0 if name.startswith("b_") else float(own[name].mean()))
    copy_latents(sae, wide, d_sae)
    return wide.eval().requires_grad_(False)


def latents_of(name: str, tensor: Tensor, latents: slice) -> Tensor:
    """The part of a weight that belongs to some latents; all of what belongs to none: `b_dec`, single numbers."""
    return tensor if name == "b_dec" or not tensor.dim() else tensor[:, latents] if name == "W_enc" else tensor[latents]
