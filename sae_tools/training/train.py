"""The training loop: rows of activations -> SAEs, with their curve.

Data order, schedules and dead-latent counts are functions of the recipe and the step alone, so that a run which was
killed and goes on from its last checkpoint ends with the same bytes as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from sae_tools.common import distributed, interrupt
from sae_tools.common.artifacts import require_space
from sae_tools.common.errors import SettingError
from sae_tools.common.faults import reach
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Recipe
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.saes import SAE, TrainingSAE
from sae_tools.training import checkpoints, memory
from sae_tools.training.pace import Pace
from sae_tools.training.step_result import Result
from sae_tools.training.trainee import Trainee

logger = logging.getLogger(__name__)
CURVE_POINTS = 200
CHECKPOINT_SECONDS = 60.0

Batches = Callable[[int], Iterable[Tensor]]
"""The batches (batch_size, d_in) of the run from a given number on."""


@dataclass(frozen=True)
class Watch:
    """What is measured of the first SAE while it trains, as it would be saved, on top of the curve."""

    steps: tuple[int, ...]
    """After how many steps; 0 is before the first."""
    measure: Callable[[SAE[Any]], dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """SAEs, one a seed; the curve of the first, a row of numbers for each of about `CURVE_POINTS` steps."""

    saes: list[TrainingSAE[Any]]
    live: list[Tensor]
    """For each, which latents (d_sae,) are not dead at the end."""
    curve: list[dict[str, float]]
    watched: list[dict[str, float]]
    """What the `Watch` measured, in order, each with its `tokens`."""

    @property
    def sae(self) -> TrainingSAE[Any]:
        """The first."""
        return self.saes[0]


def train(
    batches: Batches,
    d_in: int,
    recipe: Recipe,
    metadata: dict[str, Any],
    device: str,
    scale: float = 1.0,
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    start: SAE[Any] | None = None,
    frozen_latents: int = 0,
    watch: Watch | None = None,
) -> Trained:
    """Train `recipe.seeds` SAEs on rows that are multiplied by `scale`, which is then folded into the weights.

    With a `folder` the run saves its state there every so often and when asked to stop, and goes on from it. It must
    not be shared with a run of another recipe or other data. Under torchrun each process takes its part of every batch.
    Given `start`, an SAE for rows as they are, training goes on from its weights; its first `frozen_latents` and, where
    there are any, its b_dec keep their bytes.

    Raises:
        SettingError: SAELens refuses the recipe, the batch can't be shared among the processes, or `start` does not
            have the recipe's architecture and size.
        WorkbenchError: loss or gradient is not finite.
        SystemExit: SIGTERM or Ctrl-C came; the state is saved.
    """
    if recipe.batch_size % distributed.world():
        raise SettingError(
            f"batch_size is {recipe.batch_size}, but it must be a multiple of the {distributed.world()} processes."
        )
    if frozen_latents and (start is None or not 0 < frozen_latents <= recipe.d_sae):
        raise SettingError(
            f"frozen_latents is {frozen_latents}, but it should lie between 0 and d_sae = {recipe.d_sae}, and only "
            "latents of an SAE to start from can be frozen."
        )
    n_steps = -(-recipe.training_tokens // recipe.batch_size)
    saved = checkpoints.latest(folder) if folder else None
    dtype = product_dtype(saved[1]["dtype"] if saved else recipe.product_dtype, torch.device(device))
    trainees = [
        Trainee(recipe, recipe.seed + i, d_in, metadata, device, dtype, scale, start, frozen_latents)
        for i in range(recipe.seeds)
    ]
    if folder:
        # Weights and Adam's two moments; the two checkpoints that are kept, and the one being written.
        n_bytes = 3 * sum(t.numel() * t.element_size() for trainee in trainees for t in trainee.parameters.values())
        checkpoints_need = (checkpoints.KEPT + 1) * n_bytes
        require_space(folder, checkpoints_need, "checkpoints")
    run = _Run(trainees, recipe, n_steps, folder, str(dtype).removeprefix("torch."), watch)
    if saved:
        run.restore(*saved)
    with memory.kept(), interrupt.deferred() as wish:
        run.go(batches, scale, wish, checkpoint_seconds)
    return Trained([t.finished() for t in trainees], [~t.dead for t in trainees], run.curve, run.watched)


class _Run:
    def __init__(
        self,
        trainees: list[Trainee],
        recipe: Recipe,
        n_steps: int,
        folder: Path | None,
        dtype: str,
        watch: Watch | None,
    ) -> None:
        self.trainees, self.recipe, self.n_steps, self.folder, self.dtype = trainees, recipe, n_steps, folder, dtype
        self.watch, self.done = watch, 0
        self.curve: list[dict[str, float]] = []
        self.watched: list[dict[str, float]] = []

    def go(self, batches: Batches, scale: float, wish: interrupt.Wish, checkpoint_seconds: float) -> None:
        rank, world = distributed.rank(), distributed.world()
        device = self.trainees[0].silent.device
        with logging_redirect_tqdm(), self._bar() as bar:
            saved_at = mark = time.monotonic()
            marked = self.done
            if self.done == 0:
                self._look()
            for batch in batches(self.done):
                rows = batch.chunk(world)[rank].to(device) * scale
                results = [trainee.step(rows, self.done, self.n_steps) for trainee in self.trainees]
                self.done += 1
                reach("step")
                bar.update(len(batch))
                if self._is_point():
                    now = time.monotonic()
                    rate = (self.done - marked) * len(batch) / (now - mark)
                    mark, marked = now, self.done
                    self.curve.append(point := self._point(rows, results[0], rate))
                    bar.set_postfix(
                        {key: f"{point[key]:.3g}" for key in ("loss", "explained_variance", "l0", "dead_share")}
                    )
                self._look()
                if _any_wishes(wish):
                    self.save()
                    wish.leave()
                if time.monotonic() - saved_at >= checkpoint_seconds and self.done < self.n_steps:
                    self.save()
                    saved_at = time.monotonic()

    def _look(self) -> None:
        if self.watch is not None and self.done in self.watch.steps and distributed.rank() == 0:
            tokens = self.done * self.recipe.batch_size
            self.watched.append({"tokens": tokens, **self.watch.measure(self.trainees[0].now())})

    def _bar(self) -> Any:
        size = self.recipe.batch_size
        return tqdm(
            total=self.n_steps * size, initial=self.done * size, desc=f"train {self.recipe.architecture}",
            unit="tok", unit_scale=True, disable=distributed.rank() > 0,
        )  # fmt: skip

    def _is_point(self) -> bool:
        step = self.done - 1
        return step % max(1, self.n_steps // CURVE_POINTS) == 0 or self.done == self.n_steps

    @torch.no_grad()
    def _point(self, rows: Tensor, result: Result, rate: float) -> dict[str, float]:
        ev = explained_variance(rows, result.sae_out.float())
        numbers = torch.tensor([float(result.loss), ev, float(result.l0)], dtype=torch.float64)
        distributed.average_([numbers])
        loss, ev, l0 = numbers.tolist()
        return {
            "step": self.done - 1,
            "tokens": self.done * self.recipe.batch_size,
            "loss": loss,
            "explained_variance": ev,
            "l0": l0,
            "dead_share": float(self.trainees[0].dead.float().mean()),
            "coefficient": max(self.trainees[0].coefficients.values(), default=0.0),
            "tokens_per_second": round(rate),
        }

    def save(self) -> None:
        if self.folder is None or distributed.rank() > 0:
            return
        tensors = {f"{i}.{key}": value for i, t in enumerate(self.trainees) for key, value in t.tensors().items()}
        about = {
            "curve": self.curve, "watched": self.watched, "dtype": self.dtype, "processes": distributed.world(),
            "paces": [t.stepper.pace and dataclasses.asdict(t.stepper.pace) for t in self.trainees],
        }  # fmt: skip
        checkpoints.save(self.folder, self.done, tensors, about)

    def restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        for i, trainee in enumerate(self.trainees):
            mine = f"{i}."
            trainee.restore({key.removeprefix(mine): t for key, t in tensors.items() if key.startswith(mine)})
            pace = about["paces"][i]
            trainee.stepper.pace = pace and Pace(**pace)
        self.done, self.curve, self.watched = about["step"], about["curve"], about.get("watched", [])
        logger.info("going on from step %d of %d", self.done, self.n_steps)
        if about["processes"] != distributed.world():
            logger.warning(
                "the checkpoint is of %d processes, now there are %d: the result will differ by rounding",
                about["processes"], distributed.world(),
            )  # fmt: skip


def _any_wishes(wish: interrupt.Wish) -> bool:
    """Whether any process was asked to stop: all must do so after the same step."""
    heard = int(distributed.greatest_(torch.tensor([wish.signal])))
    # One that came meanwhile is left for the next step, when all can hear it.
    if heard:
        wish.signal = heard
    return bool(heard)


def norm_scale(rows: Tensor) -> float:
    """√d / mean ‖x‖: the factor that makes a row's expected norm √d (Anthropic, April 2024)."""
    return float(rows.shape[-1] ** 0.5 / rows.norm(dim=-1).mean())
