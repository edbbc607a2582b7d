"""The sparse step of SAEs whose latents fire above a threshold: ReLU + L1, JumpReLU.

What is taken by latent is taken by `index_select`: the gradient of `[...]` adds up in an order that differs by run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from sae_tools.saes import JumpReLU, Step, TrainingSAE, TrainStepInput
from sae_tools.training.divided import Division
from sae_tools.training.sparse import SPARSE_BELOW, Entries, above, by_sample, decode, encode, pre_activations
from sae_tools.training.step_result import Result, result_of, squared_error, subtracted


def _positive(x: Tensor, W: Tensor, b: Tensor, dtype: torch.dtype, division: Division) -> Entries | None:
    """Entries whose pre-activation is positive; None if an undivided SAE has so many that dense products are faster.

    The first rows tell: a quarter of the batch at most.
    """

    def look(first: int, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for start, pre in pre_activations(rows, W, b, dtype):
            samples, latents = above(pre, 0.0)
            yield samples + start + first, latents

    quarter = -(-len(x) // 4)
    found = list(look(0, x[:quarter]))
    if division.parts == 1 and sum(len(latents) for _, latents in found) > SPARSE_BELOW * quarter * len(W):
        return None
    found += look(quarter, x[quarter:]) if len(x) > quarter else []
    samples, latents = (torch.cat(parts) for parts in zip(*found, strict=True))
    return by_sample(samples, latents, len(x), len(W))


def relu_step(
    sae: TrainingSAE[Any], W: Tensor, inputs: TrainStepInput, dtype: torch.dtype, division: Division
) -> Result | None:
    """Squared error plus L1 of the activations weighted by decoder norms (Anthropic, April 2024)."""
    if sae.cfg.lp_norm != 1:
        return None
    x = sae.process_sae_in(inputs.sae_in)
    entries = _positive(x, W, sae.b_enc, dtype, division)
    if entries is None:
        return None
    acts = encode(x.detach(), W, sae.b_enc, subtracted(sae), entries).relu()
    out = division.summed(decode(acts, sae.W_dec, entries) + division.shared(sae.b_dec))
    out = sae.run_time_activation_norm_fn_out(out)
    sparsity = (acts * sae.W_dec.norm(dim=1).index_select(0, entries.latents)).sum() / len(x)
    losses = {
        "mse_loss": squared_error(sae, out, inputs.sae_in),
        "l1_loss": inputs.coefficients["l1"] * division.summed(sparsity),
    }
    return result_of(losses, out, acts, entries, division)


def jump_relu_step(
    sae: TrainingSAE[Any], W: Tensor, inputs: TrainStepInput, dtype: torch.dtype, division: Division
) -> Result | None:
    """Squared error plus L0 by straight-through estimators (Rajamanoharan et al. 2024; tanh: Anthropic, January 2025).

    Entries are the active latents and those within half a bandwidth of their threshold: it has a gradient from both.
    """
    with torch.no_grad():
        sae.threshold.data.clamp_(min=0.0)
        lowest = sae.threshold - sae.bandwidth / 2
    x = sae.process_sae_in(inputs.sae_in)
    entries = _positive(x, W, sae.b_enc - lowest, dtype, division)
    if entries is None:
        return None
    cfg, coefficient = sae.cfg, inputs.coefficients["l0"]
    pre = encode(x.detach(), W, sae.b_enc, subtracted(sae), entries)
    # One row, so that SAELens' sum over the batch leaves each entry's share, which indexing then adds up by latent.
    args = pre[None], sae.threshold.index_select(0, entries.latents), sae.bandwidth, cfg.jumprelu_ste_to_input
    acts = JumpReLU.apply(*args)[0]  # type: ignore[no-untyped-call]
    out = division.summed(decode(acts, sae.W_dec, entries) + division.shared(sae.b_dec))
    out = sae.run_time_activation_norm_fn_out(out)
    losses = {"mse_loss": squared_error(sae, out, inputs.sae_in)}
    if cfg.jumprelu_sparsity_loss_mode == "tanh":
        norms = sae.W_dec.norm(dim=1).index_select(0, entries.latents)
        total = division.summed(torch.tanh(cfg.jumprelu_tanh_scale * acts * norms).sum())
        losses["l0_loss"] = coefficient * total / len(x)
    else:
        on = Step.apply(*args)[0]  # type: ignore[no-untyped-call]
        l0 = division.summed(on.new_zeros(len(x)).index_add(0, entries.samples, on))
        if cfg.jumprelu_sparsity_loss_mode == "quadratic":
            l0 = 2 / cfg.target_l0 * (l0 - cfg.target_l0) ** 2
        losses["l0_loss"] = coefficient * l0.mean()
    if cfg.pre_act_loss_coefficient is not None:
        short = division.summed(_below_threshold(sae, W, x, inputs.dead_neuron_mask))
        losses["pre_act_loss"] = cfg.pre_act_loss_coefficient * short
    return result_of(losses, out, acts, entries, division)


def _below_threshold(sae: TrainingSAE[Any], W: Tensor, x: Tensor, dead: Tensor | None) -> Tensor:
    """How far dead latents stay below their thresholds, weighted by decoder norms (Anthropic, January 2025)."""
    if dead is None or not bool(dead.any()):
        return x.new_zeros(())
    pre = x @ W[dead].T + sae.b_enc[dead]
    short: Tensor = (sae.threshold[dead] - pre).relu() * sae.W_dec[dead].norm(dim=1)
    return short.sum(dim=-1).mean()
