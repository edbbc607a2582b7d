"""The training loop: rows of activations -> an SAE, with its curve.

The step is SAELens' own (`training_forward_pass`: loss and auxiliary losses of every architecture in its registry); the
loop around it is ours, so that data order, schedules and dead-latent counts are functions of the recipe alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.errors import WorkbenchError
from sae_tools.metrics import explained_variance
from sae_tools.saes import TrainingSAE, TrainStepInput, TrainStepOutput, build, coefficients
from sae_tools.settings import Recipe

CURVE_POINTS = 200


@dataclass
class Trained:
    """A trained SAE and its curve: one row of numbers for each of about `CURVE_POINTS` steps."""

    sae: TrainingSAE[Any]
    curve: list[dict[str, float]] = field(default_factory=list)


def learning_rate(step: int, n_steps: int, recipe: Recipe) -> float:
    """Share of `recipe.lr` at `step`: linear warm-up, constant, linear decay to 0 (SAELens' trapezoid)."""
    up = min(1.0, (step + 1) / recipe.lr_warm_up_steps) if recipe.lr_warm_up_steps else 1.0
    down = min(1.0, (n_steps - step) / recipe.lr_decay_steps) if recipe.lr_decay_steps else 1.0
    return min(up, down)


def train(
    batches: Iterable[Tensor], d_in: int, recipe: Recipe, metadata: dict[str, Any], device: str, scale: float = 1.0
) -> Trained:
    """Train an SAE on batches of (batch, d_in) rows, each multiplied by `scale`, which is folded into the weights.

    Raises:
        SettingError: SAELens refuses the recipe.
        WorkbenchError: the loss is not finite.
    """
    sae = build(recipe.architecture, d_in, recipe.d_sae, recipe.architecture_options, metadata, recipe.seed, device)
    sae.train()
    n_steps = -(-recipe.training_tokens // recipe.batch_size)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, n_steps, recipe))
    silent = torch.zeros(recipe.d_sae, device=device)  # tokens since each latent fired
    trained = Trained(sae)
    for step, batch in enumerate(_progress(batches, n_steps, recipe)):
        rows = batch.to(device) * scale
        out = _forward(sae, rows, silent >= recipe.dead_after_tokens, step, recipe)
        _refuse_not_finite(out.loss, step)
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        with torch.no_grad():
            silent = torch.where((out.feature_acts != 0).any(dim=0), 0, silent + len(rows))
        if step % max(1, n_steps // CURVE_POINTS) == 0 or step == n_steps - 1:
            trained.curve.append(_point(out, silent, step, recipe))
    if scale != 1.0:
        sae.fold_activation_norm_scaling_factor(scale)
    return trained


def _forward(sae: TrainingSAE[Any], rows: Tensor, dead: Tensor, step: int, recipe: Recipe) -> TrainStepOutput:
    with torch.autocast(rows.device.type, torch.bfloat16) if recipe.autocast else nullcontext():
        return sae.training_forward_pass(
            TrainStepInput(rows, coefficients(sae, step), dead, n_training_steps=step, is_logging_step=False)
        )


def _refuse_not_finite(loss: Tensor, step: int) -> None:
    if not torch.isfinite(loss):
        raise WorkbenchError(f"the loss is {loss.item()} at step {step}; lower lr, or look for bad activations.")


@torch.no_grad()
def _point(out: TrainStepOutput, silent: Tensor, step: int, recipe: Recipe) -> dict[str, float]:
    return {
        "step": step,
        "tokens": (step + 1) * recipe.batch_size,
        "loss": out.loss.item(),
        "explained_variance": explained_variance(out.sae_in, out.sae_out.float()),
        "l0": (out.feature_acts != 0).sum(dim=-1).float().mean().item(),
        "dead_share": (silent >= recipe.dead_after_tokens).float().mean().item(),
    }


def _progress(batches: Iterable[Tensor], n_steps: int, recipe: Recipe) -> Iterator[Tensor]:
    with tqdm(
        total=n_steps * recipe.batch_size, desc=f"train {recipe.architecture}", unit="tok", unit_scale=True
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def norm_scale(rows: Tensor) -> float:
    """√d / mean ‖x‖: the factor that makes a row's expected norm √d (Anthropic, April 2024)."""
    return float(rows.shape[-1] ** 0.5 / rows.norm(dim=-1).mean())
