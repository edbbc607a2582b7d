"""One dictionary over two models (a crosscoder): what both share, and what one of them has alone.

Rows are [base ; finetuned], each half scaled to one size. The SAE is a BatchTopK one: an L1 penalty on the two lengths
of a latent shrinks the smaller one away and so invents latents of one model (arXiv:2504.02922: 3,176 against 134).
Latents are chosen by f_j ‖[d_base ; d_finetuned]‖, the length of what they add to the row: those of one model and those
of both compete by how much error they take away. The sum of both lengths, as in that paper, would favour those of both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_tools.common.settings import Diff, Recipe
from sae_tools.saes import SAE, TrainingSAE, jump_relu
from sae_tools.training.halves import Dictionary, Moments, half
from sae_tools.training.pairs import Pairs
from sae_tools.training.train import train

WARM_UP = 20
"""Steps in which the learning rate grows."""
FIT_ROWS, FIT_BATCH = 65_536, 1024
"""Rows from which the halves' encoders follow, and how many at a time."""
THRESHOLD_ROWS = 16_384
"""Rows from which their thresholds follow."""


@dataclass(frozen=True)
class Crosscoder:
    """A crosscoder and its halves, for activations as they are; a latent is the same number in all three."""

    joint: SAE[Any]
    """Reads and rebuilds (tokens, 2d) rows [base ; finetuned]."""
    base: SAE[Any]
    finetuned: SAE[Any]
    scales: tuple[float, float]
    """Of base and finetuned activations; decoder rows compare in scaled units."""
    curve: list[dict[str, float]]


def train_crosscoder(
    pairs: Pairs, config: Diff, metadata: Mapping[str, dict[str, Any]], device: str, folder: Path | None = None
) -> Crosscoder:
    """Train a crosscoder, with checkpoints in `folder`; `metadata` by "joint", "base" and "finetuned".

    Raises:
        WorkbenchError: as `train`.
    """
    recipe = recipe_of(config)
    trained = train(
        lambda first: pairs.batches(config.batch_size, config.training_tokens, config.seed, first),
        2 * pairs.d, recipe, dict(metadata["joint"]), device, folder=folder,
    )  # fmt: skip
    joint = _unit(trained.sae)

    def rows(n: int) -> Iterator[Tensor]:
        return pairs.batches(FIT_BATCH, min(n, pairs.n_rows), config.seed)

    moments = Moments(rows(FIT_ROWS))
    base, finetuned = (
        half(joint, i, moments, rows(THRESHOLD_ROWS), config.k, pairs.scales[i], dict(metadata[name]))
        for i, name in enumerate(("base", "finetuned"))
    )
    return Crosscoder(_raw(joint, pairs, dict(metadata["joint"])), base, finetuned, pairs.scales, trained.curve)


def recipe_of(config: Diff) -> Recipe:
    """The BatchTopK recipe of a crosscoder."""
    n_steps = -(-config.training_tokens // config.batch_size)
    return Recipe(
        "batchtopk",
        config.d_sae,
        config.training_tokens,
        config.batch_size,
        config.lr,
        lr_warm_up_steps=min(WARM_UP, n_steps // 4),
        lr_decay_steps=n_steps // 2,
        dead_after_tokens=max(1, config.training_tokens // 4),
        seed=config.seed,
        # Of a short run the running mean of the threshold would keep its first value, 0.
        architecture_options={"k": config.k, "topk_threshold_lr": min(1.0, max(0.01, 10 / n_steps))},
    )


@torch.no_grad()
def _unit(sae: TrainingSAE[Any]) -> Dictionary:
    """The weights with decoder rows of length 1, so that the threshold is one on activations."""
    norms = sae.W_dec.norm(dim=-1).clamp(min=1e-8)
    return Dictionary(
        sae.W_enc * norms, sae.b_enc * norms, sae.W_dec / norms[:, None], sae.b_dec.clone(), float(sae.topk_threshold)
    )


@torch.no_grad()
def _raw(joint: Dictionary, pairs: Pairs, metadata: dict[str, Any]) -> SAE[Any]:
    """The SAE for rows that are not scaled."""
    scale = torch.tensor(pairs.scales, device=joint.b_dec.device).repeat_interleave(pairs.d)
    return jump_relu(
        joint.W_enc * scale[:, None], joint.b_enc, joint.W_dec / scale, joint.b_dec / scale, joint.threshold, metadata
    )
