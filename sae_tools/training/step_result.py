"""What a training step found, and the pieces that every sparse rule has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae_tools.saes import TrainingSAE
from sae_tools.training.divided import Division
from sae_tools.training.sparse import Entries


@dataclass(frozen=True)
class Result:
    """What one step found: losses by SAELens' names, (batch, d_in) reconstructions, what fired and how much of it."""

    loss: Tensor
    losses: dict[str, Tensor]
    sae_out: Tensor
    fired: Tensor
    """(d_sae,) whether each latent, of those that this process has, fired on some sample."""
    l0: Tensor
    """Mean number of latents that fired on a sample."""


def result_of(losses: dict[str, Tensor], sae_out: Tensor, acts: Tensor, entries: Entries, division: Division) -> Result:
    with torch.no_grad():
        on = acts != 0
        fired = torch.zeros(entries.d_sae, dtype=torch.bool, device=acts.device)
        fired[entries.latents[on]] = True
        l0 = division.summed(on.sum()) / len(sae_out)
    return Result(sum(losses.values()), losses, sae_out, fired, l0)  # type: ignore[arg-type]


def squared_error(sae: TrainingSAE[Any], out: Tensor, target: Tensor) -> Tensor:
    return sae.mse_loss_fn(out, target).sum(dim=-1).mean()  # type: ignore[no-any-return]


def subtracted(sae: TrainingSAE[Any]) -> Tensor | None:
    return sae.b_dec if sae.cfg.apply_b_dec_to_input else None
