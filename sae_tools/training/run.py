"""SAEs of one recipe while they train: given one batch after another, they learn, are measured, and can be saved.

Schedules and dead-latent counts are functions of the recipe and the step alone, so that a run which was killed and goes
on from its last checkpoint, given the batches from there on, ends with the same bytes as one that never stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.common import distributed, interrupt
from sae_tools.common.artifacts import require_space
from sae_tools.common.errors import SettingError
from sae_tools.common.faults import reach
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Recipe
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.saes import SAE, TrainingSAE
from sae_tools.training import checkpoints
from sae_tools.training.divided import divided
from sae_tools.training.pace import Pace
from sae_tools.training.step_result import Result
from sae_tools.training.trainee import Trainee

logger = logging.getLogger(__name__)
CURVE_POINTS = 200
CHECKPOINT_SECONDS = 60.0


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
    """Of a divided recipe in process 0 alone."""
    live: list[Tensor]
    """For each, which latents (d_sae,) are not dead at the end."""
    curve: list[dict[str, float]]
    watched: list[dict[str, float]]
    """What the `Watch` measured, in order, each with its `tokens`."""

    @property
    def sae(self) -> TrainingSAE[Any]:
        """The first."""
        return self.saes[0]


class Run:
    """`recipe.seeds` SAEs that learn from the same rows; `done` steps of `n_steps` are behind them.

    What the arguments mean, and what is raised: `train.train`. Its bar is shown while it is open as a context.
    """

    def __init__(
        self, d_in: int, recipe: Recipe, metadata: dict[str, Any], device: str, scale: float = 1.0,
        folder: Path | None = None, checkpoint_seconds: float = CHECKPOINT_SECONDS, start: SAE[Any] | None = None,
        frozen_latents: int = 0, watch: Watch | None = None,
    ) -> None:  # fmt: skip
        _check(recipe, start, frozen_latents)
        self.division = divided(recipe.latent_parallel, device)
        parts = self.division.parts
        folder = folder and checkpoints.folder_of(folder, self.division.part, parts)
        saved = checkpoints.latest(folder, shared=parts > 1) if folder else None
        dtype = product_dtype(saved[1]["dtype"] if saved else recipe.product_dtype, torch.device(device))
        if parts > 1:  # what one process finds faster, another may not
            dtype = torch.float32 if distributed.extremes(dtype.itemsize)[1] == 4 else torch.bfloat16
        self.trainees = [
            Trainee(recipe, recipe.seed + i, d_in, metadata, device, dtype, scale, start, frozen_latents, self.division)
            for i in range(recipe.seeds)
        ]
        self.d_in, self.recipe, self.folder, self.watch, self.scale = d_in, recipe, folder, watch, scale
        self.dtype = str(dtype).removeprefix("torch.")
        self.n_steps, self.done = -(-recipe.training_tokens // recipe.batch_size), 0
        self.curve: list[dict[str, float]] = []
        self.watched: list[dict[str, float]] = []
        self._checkpoint_seconds = checkpoint_seconds
        if folder:
            # Weights and Adam's two moments; the two checkpoints that are kept, and the one being written.
            parameters = (p for trainee in self.trainees for p in trainee.parameters.values())
            n_bytes = 3 * parts * sum(p.numel() * p.element_size() for p in parameters)
            require_space(folder, (checkpoints.KEPT + 1) * n_bytes, "checkpoints")
        if saved:
            self._restore(*saved)

    def __enter__(self) -> Run:
        size = self.recipe.batch_size
        self._bar = tqdm(
            total=self.n_steps * size, initial=self.done * size, desc=f"train {self.recipe.architecture}", unit="tok",
            unit_scale=True, disable=distributed.rank() > 0,
        )  # fmt: skip
        self._saved_at = self._mark = time.monotonic()
        self._marked = self.done
        if self.done == 0:
            self._look()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def step(self, batch: Tensor) -> None:
        """Learn from batch number `done`, (batch_size, d_in); of several processes each takes its share.

        Raises:
            WorkbenchError: loss or gradient is not finite.
        """
        share = batch.chunk(self.division.shares)[self.division.share]
        rows = share.to(self.trainees[0].silent.device) * self.scale
        results = [trainee.step(rows, self.done, self.n_steps) for trainee in self.trainees]
        self.done += 1
        reach("step")
        self._bar.update(len(batch))
        if self._is_point():
            now = time.monotonic()
            rate = (self.done - self._marked) * len(batch) / (now - self._mark)
            self._mark, self._marked = now, self.done
            self.curve.append(point := self._point(rows, results[0], rate))
            self._bar.set_postfix(
                {key: f"{point[key]:.3g}" for key in ("loss", "explained_variance", "l0", "dead_share")}
            )
        self._look()
        late = time.monotonic() - self._saved_at >= self._checkpoint_seconds
        if self.done < self.n_steps and self.division.any(late):  # all parts save the same step
            self.save()
            self._saved_at = time.monotonic()

    def finished(self) -> Trained:
        """What came of it."""
        saes = [sae for t in self.trainees if (sae := t.finished()) is not None]
        live = [self.division.laid_out(~t.dead) for t in self.trainees]
        return Trained(saes, live, self.curve, self.watched)

    def save(self) -> None:
        """Write a checkpoint, where there is a folder for it."""
        if self.folder is None or self.division.share > 0:
            return
        tensors = {f"{i}.{key}": value for i, t in enumerate(self.trainees) for key, value in t.tensors().items()}
        about = {
            "curve": self.curve, "watched": self.watched, "dtype": self.dtype, "processes": distributed.world(),
            "paces": [t.stepper.pace and dataclasses.asdict(t.stepper.pace) for t in self.trainees],
        }  # fmt: skip
        checkpoints.save(self.folder, self.done, tensors, about)

    def _look(self) -> None:
        if self.watch is not None and self.done in self.watch.steps and distributed.rank() == 0:
            tokens = self.done * self.recipe.batch_size
            self.watched.append({"tokens": tokens, **self.watch.measure(self.trainees[0].now())})

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
            "dead_share": float(self.division.mean(self.trainees[0].dead.float())),
            "coefficient": max(self.trainees[0].coefficients.values(), default=0.0),
            "tokens_per_second": round(rate),
        }

    def _restore(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
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


def leave_if_asked(wish: interrupt.Wish, runs: Sequence[Run]) -> None:
    """Save every run and end the process, where any process was asked to stop: all do so after the same step.

    Raises:
        SystemExit: as the signal would have ended it.
    """
    heard = int(distributed.greatest_(torch.tensor([wish.signal])))
    if not heard:
        return
    # One that came meanwhile is left for the next step, when all can hear it.
    wish.signal = heard
    for run in runs:
        run.save()
    wish.leave()


def _check(recipe: Recipe, start: SAE[Any] | None, frozen_latents: int) -> None:
    processes, parts = distributed.world(), recipe.latent_parallel
    if processes % parts:
        raise SettingError(
            f"latent_parallel is {parts}, but the number of processes, {processes}, is no multiple of it; start "
            "torchrun with one that is, or set latent_parallel to 1."
        )
    if recipe.batch_size % (processes // parts):
        raise SettingError(
            f"batch_size is {recipe.batch_size}, but it must be a multiple of the {processes // parts} processes that "
            "share it."
        )
    if parts > 1 and start is not None:
        raise SettingError(
            f"latent_parallel is {parts}, but training on from another SAE's weights is not divided; set it to 1."
        )
    if frozen_latents and (start is None or not 0 < frozen_latents <= recipe.d_sae):
        raise SettingError(
            f"frozen_latents is {frozen_latents}, but it should lie between 0 and d_sae = {recipe.d_sae}, and only "
            "latents of an SAE to start from can be frozen."
        )
