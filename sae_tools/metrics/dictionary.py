"""What an SAE's weights say of its latents, without any text."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_tools.common import distributed

BLOCK = 1024
"""Latents looked at together."""


@torch.no_grad()
def weights(W_enc: Tensor, b_enc: Tensor | None, W_dec: Tensor) -> dict[str, Tensor]:
    """Each (d_sae,), of (d_in, d_sae) encoder and (d_sae, d_in) decoder; names are SAELens' where it has one.

    encoder_norm ‖W_enc[:, i]‖; encoder_bias; encoder_decoder_cosine_sim cos(W_enc[:, i], W_dec[i]), 1: tied;
    decoder_norm ‖W_dec[i]‖; max_decoder_cosine_sim max_j cos(W_dec[i], W_dec[j]), j ≠ i (SAEBench averages it).
    """
    encoder = W_enc.T.float()
    found = {
        "encoder_norm": encoder.norm(dim=-1),
        "encoder_bias": torch.zeros(len(W_dec)) if b_enc is None else b_enc.float(),
        "encoder_decoder_cosine_sim": torch.nn.functional.cosine_similarity(encoder, W_dec.float(), dim=-1),
        "decoder_norm": W_dec.float().norm(dim=-1),
        "max_decoder_cosine_sim": max_cosine(W_dec),
    }
    return {name: values.cpu() for name, values in found.items()}


def max_cosine(directions: Tensor) -> Tensor:
    """(n,) the largest cosine of each of (n, d) directions with another one; 0 where there is no other.

    Several processes share the blocks.
    """
    unit = torch.nn.functional.normalize(directions.float(), dim=-1)
    if len(unit) < 2:
        return unit.new_zeros(len(unit))
    parts = []
    for start in distributed.share(range(0, len(unit), BLOCK)):
        cosines = unit[start : start + BLOCK] @ unit.T
        cosines.diagonal(start).fill_(-2)
        parts.append(cosines.amax(dim=1))
    return distributed.cat(parts)


def spread(values: Tensor) -> dict[str, Tensor]:
    """How peaked each of (n, m) rows is, each (n,): of a latent's effects on the m logits, say.

    kurtosis: mean z⁴ of the standardised row, 3 for a normal one; top10_share: Σ|v| of the ten largest |v| / Σ|v|.
    """
    values = values.float()
    square = (values - values.mean(dim=-1, keepdim=True)).square_()
    variance = square.mean(dim=-1)
    fourth = square.square_().mean(dim=-1)
    size = values.abs()
    total = size.sum(dim=-1)
    top = size.topk(min(10, size.shape[-1]), dim=-1).values.sum(dim=-1)
    return {
        "kurtosis": torch.where(variance > 0, fourth / variance.square().clamp(min=1e-30), 0.0),
        "top10_share": torch.where(total > 0, top / total.clamp(min=1e-30), 0.0),
    }


def round_trip_ratios(own: Tensor, encoded: Tensor) -> dict[str, Tensor]:
    """Of (n, d_sae) encodings of n decoded one-hot latents and (n,) each latent's own value there, each (n,).

    round_trip_max: value / maximum; round_trip_mean: value / mean; round_trip_square: value² / mean square. A latent
    that comes back alone gives 1, d_sae, d_sae. All are 0 where nothing comes back.
    """
    size = encoded.abs()
    found = {
        "round_trip_max": own / size.amax(dim=-1).clamp(min=1e-30),
        "round_trip_mean": own / size.mean(dim=-1).clamp(min=1e-30),
        "round_trip_square": own.square() / size.square().mean(dim=-1).clamp(min=1e-30),
    }
    return {name: torch.where(own == 0, 0.0, values) for name, values in found.items()}


@torch.no_grad()
def agreement(decoders: Sequence[Tensor], live: Sequence[Tensor], same: float = 0.7) -> dict[str, float]:
    """How far two or more SAEs of one recipe, from different seeds, learned the same latents.

    For each live latent of the first, the largest cosine of its decoder row with the live ones of each other:
    `mean_max_cosine` is its mean, `share_in_all` the share of latents for which it is at least `same` in every other
    (Paulo & Belrose 2025, "Sparse autoencoders trained on the same data learn different features", take 0.7).
    """
    rows = [torch.nn.functional.normalize(d[keep].float(), dim=-1) for d, keep in zip(decoders, live, strict=True)]
    if not all(len(d) for d in rows):
        return {"mean_max_cosine": 0.0, "share_in_all": 0.0}
    best = torch.stack([torch.cat([(part @ d.T).amax(dim=1) for part in torch.split(rows[0], 4096)]) for d in rows[1:]])
    return {
        "mean_max_cosine": float(best.mean()),
        "share_in_all": float((best >= same).all(dim=0).float().mean()),
    }
