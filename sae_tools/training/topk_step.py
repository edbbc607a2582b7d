"""The sparse step of TopK, AbsTopK, BatchTopK and Matryoshka SAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from sae_tools.common import distributed
from sae_tools.saes import TrainingSAE, TrainStepInput, formulas_of
from sae_tools.training.divided import Division, among_largest
from sae_tools.training.sparse import SPARSE_BELOW, Entries, above, by_sample, decode, encode, pre_activations, top_k
from sae_tools.training.step_result import Result, result_of, squared_error, subtracted


def top_k_step(
    sae: TrainingSAE[Any], W: Tensor, inputs: TrainStepInput, dtype: torch.dtype, division: Division
) -> Result:
    """Squared errors: of the reconstruction from the chosen latents, of its Matryoshka prefixes, of the dead latents'.

    Weighting activations by decoder norms changes which are chosen and nothing else: decoding divides by them again.
    """
    x = sae.process_sae_in(inputs.sae_in)
    with torch.no_grad():
        norms = sae.W_dec.norm(dim=-1) if sae.cfg.rescale_acts_by_decoder_norm else None
        scaled, bias = (W, sae.b_enc) if norms is None else (W * norms[:, None], sae.b_enc * norms)
        samples, latents = _chosen(sae, x, scaled, bias, dtype, division)
    widths = getattr(sae.cfg, "matryoshka_widths", None) or [sae.cfg.d_sae]
    entries = _in_levels(samples, latents, widths, len(x), len(W), division)
    values = encode(x.detach(), W, sae.b_enc, subtracted(sae), entries)
    acts = values if _signed(sae) else values.relu()
    parts = decode(acts, sae.W_dec, entries).view(len(x), len(widths), -1)
    levels = division.summed((parts.cumsum(dim=1) if len(widths) > 1 else parts) + division.shared(sae.b_dec))
    outs = [sae.run_time_activation_norm_fn_out(levels[:, i]) for i in range(len(widths))]
    losses = {"mse_loss": squared_error(sae, outs[-1], inputs.sae_in)}
    for width, out in zip(widths[:-1], outs, strict=False):
        losses[f"inner_mse_loss_{width}"] = squared_error(sae, out, inputs.sae_in)
    losses["auxiliary_reconstruction_loss"] = _auxiliary(sae, W, x, norms, inputs, outs, widths, division)
    if hasattr(sae, "topk_threshold"):
        _move_threshold(sae, acts if norms is None else acts * norms[entries.latents])
    return result_of(losses, outs[-1], acts, entries, division)


def _signed(sae: TrainingSAE[Any]) -> bool:
    return formulas_of(sae) == "abstopk"


def _chosen(
    sae: TrainingSAE[Any], x: Tensor, W: Tensor, b: Tensor, dtype: torch.dtype, division: Division
) -> tuple[Tensor, Tensor]:
    """(n,) samples, ascending, and (n,) latents."""
    if hasattr(sae, "topk_threshold"):
        return _batch_top_k(x, W, b, sae.activation_fn.k, dtype, division)
    parts = (part.abs_() if _signed(sae) else part for _, part in pre_activations(x, W, b, dtype))
    return _pairs(*_strongest(parts, sae.activation_fn.k, top_k, division))


def _strongest(
    parts: Iterable[Tensor], k: int, pick: Callable[[Tensor, int], Tensor], division: Division
) -> tuple[Tensor, Tensor | None]:
    """(batch, up to k) columns of each sample's largest of the (rows, latents) parts, as `pick` finds them.

    Of a divided SAE also which of them are among its k largest of all processes.
    """
    best, values = [], []
    for part in parts:
        best.append(pick(part, min(k, part.shape[1])))
        if division.parts > 1:
            values.append(part.gather(1, best[-1]))
    return torch.cat(best), division.among_best(torch.cat(values), k) if values else None


def _pairs(best: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n,) samples, ascending, and (n,) columns of what `_strongest` found."""
    if keep is not None:
        return keep.nonzero()[:, 0], best[keep]
    return torch.arange(len(best), device=best.device).repeat_interleave(best.shape[1]), best.flatten()


def _batch_top_k(
    x: Tensor, W: Tensor, b: Tensor, k: float, dtype: torch.dtype, division: Division
) -> tuple[Tensor, Tensor]:
    """The int(k · batch) largest positive pre-activations of the whole batch, over all processes.

    Few are looked at twice: those above a bound that a 61st part of the first rows puts at twice the wanted number.
    """
    n = int(k * len(x) * division.shares)
    share = min(1.0, 2 * k / (len(W) * division.parts))
    bound = -1.0
    while True:
        samples, latents, values = [], [], []
        for first, part in pre_activations(x, W, b, dtype):
            if bound < 0:
                few = part.flatten()[::61].float()  # a prime: samples of all latents
                bound = max(0.0, few.kthvalue(max(1, int(len(few) * (1 - share)))).values.item())
            rows, columns = above(part, bound)
            samples.append(rows + first)
            latents.append(columns)
            values.append(part[rows, columns])
        found = torch.cat(values).float()
        every = distributed.gathered(_padded(found, n)[None])
        # Above the highest bound of any process all values are known to all.
        highest = float(distributed.greatest_(x.new_tensor(bound)))
        if highest == 0 or int((every > highest).sum()) >= n:
            break
        bound = 0.0
    keep = among_largest(found, every, n, distributed.rank())
    return torch.cat(samples)[keep], torch.cat(latents)[keep]


def _padded(values: Tensor, n: int) -> Tensor:
    """The n largest, or all and zeros."""
    if len(values) >= n:
        return values.topk(n, sorted=False).values
    return torch.cat([values, values.new_zeros(n - len(values))])


def _in_levels(
    samples: Tensor, latents: Tensor, widths: list[int], n: int, n_latents: int, division: Division
) -> Entries:
    """Entries with a bag for each sample and each range of latents between two Matryoshka widths."""
    if len(widths) == 1:
        return by_sample(samples, latents, n, n_latents)
    ends = torch.tensor([division.own(0, width, n_latents).stop for width in widths[:-1]], device=latents.device)
    bags = samples * len(widths) + torch.bucketize(latents, ends, right=True)
    order = bags.argsort(stable=True)
    return Entries(samples[order], latents[order], bags[order], n * len(widths), n_latents)


@torch.no_grad()
def _move_threshold(sae: TrainingSAE[Any], acts: Tensor) -> None:
    """BatchTopK's threshold for use after training: a running mean of the smallest activation of a batch."""
    lowest = torch.where(acts > 0, acts, torch.inf).min() if len(acts) else acts.new_tensor(torch.inf)
    lowest = -distributed.greatest_(-lowest)
    if torch.isfinite(lowest):
        rate = sae.cfg.topk_threshold_lr
        sae.topk_threshold = (1 - rate) * sae.topk_threshold + rate * lowest.to(sae.topk_threshold.dtype)


def _auxiliary(
    sae: TrainingSAE[Any],
    W: Tensor,
    x: Tensor,
    norms: Tensor | None,
    inputs: TrainStepInput,
    outs: list[Tensor],
    widths: list[int],
    division: Division,
) -> Tensor:
    """AuxK (Gao et al. 2024, A.2): the d_in / 2 strongest dead latents reconstruct what the live ones leave over.

    Matryoshka may do so for each range of latents and the error of its own level.
    """
    total = x.new_zeros(())
    dead = inputs.dead_neuron_mask
    if dead is None:
        return total
    if not getattr(sae.cfg, "use_matryoshka_aux_loss", False):
        outs, widths = outs[-1:], widths[-1:]
    start = 0
    for out, end in zip(outs, widths, strict=True):
        own = division.own(start, end, len(W))
        ids = dead[own].nonzero().flatten() + own.start
        start = end
        n_dead = division.count(len(ids))
        if n_dead:
            most = inputs.sae_in.shape[-1] // 2
            from_dead = _dead_reconstruction(sae, W, x, norms, ids, n_dead, min(most, n_dead), division)
            error = (from_dead - (inputs.sae_in - out).detach()).pow(2).sum(dim=-1).mean()
            total = total + min(n_dead / most, 1.0) * error
    return total * float(sae.cfg.aux_loss_coefficient)


def _dead_reconstruction(
    sae: TrainingSAE[Any],
    W: Tensor,
    x: Tensor,
    norms: Tensor | None,
    dead: Tensor,
    n_dead: int,
    k: int,
    division: Division,
) -> Tensor:
    """(batch, d_in) from each sample's k strongest of `n_dead` latents, of which this process has those of ids `dead`.

    Dense among them unless they are many. In float32: oneDNN keeps what it prepares for each shape of a bfloat16
    product, and the number of dead latents is another one at each step: that took 3 GB in 300 steps.
    """

    def strength(pre: Tensor) -> Tensor:
        pre = pre.detach() if norms is None else pre.detach() * norms[dead]
        return pre.abs() if _signed(sae) else pre

    def pick(strengths: Tensor, k: int) -> Tensor:
        return strengths.topk(k, sorted=False).indices

    if 2 * k > SPARSE_BELOW * n_dead:  # products alone, without SAELens' passes over all activations
        pre = x @ W[dead].T + sae.b_enc[dead]
        if k < n_dead:
            best, among = _strongest([strength(pre)], k, pick, division)
            keep = torch.zeros_like(pre, dtype=torch.bool)
            pre = pre * (keep.scatter_(1, best, True) if among is None else keep.scatter_(1, best, among))
        return division.summed(pre @ sae.W_dec[dead])
    parts = (strength(part) for _, part in pre_activations(x, W[dead], sae.b_enc[dead], torch.float32))
    samples, columns = _pairs(*_strongest(parts, k, pick, division))
    entries = by_sample(samples, dead[columns], len(x), len(W))
    acts = encode(x.detach(), W, sae.b_enc, subtracted(sae), entries)
    return division.summed(decode(acts, sae.W_dec, entries))
