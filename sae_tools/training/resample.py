"""Dead latents of a ReLU SAE get a new direction: that of an input which is badly reconstructed.

Bricken et al. 2023, "Towards Monosemanticity", appendix "Neuron resampling"; the input less b_dec as in ARENA.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_tools.saes import TrainingSAE
from sae_tools.training.divided import WHOLE, Division

ENCODER_SHARE = 0.2
"""Of the mean norm of live encoder rows: the norm of a new one."""


@torch.no_grad()
def resample(
    sae: TrainingSAE[Any],
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    rows: Tensor,
    sae_out: Tensor,
    dead: Tensor,
    generator: torch.Generator,
    division: Division = WHOLE,
) -> None:
    """Give each latent of the mask `dead` (d_sae,) a direction among rows (batch, d_in), drawn by squared loss.

    Of a divided SAE the mask is this part's, and the rows are those of the whole batch. Decoder rows get the mean norm
    of live ones, encoder rows 0.2 times theirs, biases 0, and Adam starts anew for each. `parameters` holds
    the encoder as (d_sae, d_in).
    """
    ids = dead.nonzero().flatten()
    live = ~dead
    counts = division.counts(len(ids))
    n_dead, before = sum(counts), sum(counts[: division.part])
    if n_dead in (0, division.parts * len(dead)):
        return
    loss = (rows - sae_out).pow(2).sum(-1)
    chosen = torch.multinomial(loss.cpu().double() ** 2, n_dead, replacement=True, generator=generator)
    chosen = chosen[before : before + len(ids)]
    x = sae.process_sae_in(rows[chosen.to(rows.device)])
    directions = nn.functional.normalize(x if sae.cfg.apply_b_dec_to_input else x - sae.b_dec, dim=-1)
    W_enc, W_dec = parameters["W_enc"], parameters["W_dec"]
    W_enc[ids] = directions * ENCODER_SHARE * division.mean(W_enc[live].norm(dim=-1))
    W_dec[ids] = directions * division.mean(W_dec[live].norm(dim=-1))
    parameters["b_enc"][ids] = 0.0
    for name in ("W_enc", "W_dec", "b_enc"):
        for moment in ("exp_avg", "exp_avg_sq"):
            optimizer.state[parameters[name]][moment][ids] = 0.0
