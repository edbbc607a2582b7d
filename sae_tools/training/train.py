"""The training loop: rows of activations -> SAEs, with their curve; of one recipe, or of several in step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.contrib.logging import logging_redirect_tqdm

from sae_tools.activations.order import Reader, Turn
from sae_tools.common import interrupt
from sae_tools.common.settings import Recipe
from sae_tools.saes import SAE
from sae_tools.training import memory
from sae_tools.training.run import CHECKPOINT_SECONDS, Run, Trained, Watch, leave_if_asked

Batches = Callable[[int], Iterable[Tensor]]
"""The batches (batch_size, d_in) of the run from a given number on."""
Shards = Callable[[int, int], Iterable[tuple[Turn, Tensor]]]
"""The turns, each with its shard's (n_rows, d_in) rows, from one position to another: `Stream.shards`."""


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
    not be shared with a run of another recipe or other data. Under torchrun each process takes its share of every
    batch, and with `latent_parallel` its part of the latents. Given `start`, an SAE for rows as they are, training goes
    on from its weights; its first `frozen_latents` and, where there are any, its b_dec keep their bytes.

    Raises:
        SettingError: SAELens refuses the recipe, batch or latents can't be shared among the processes, or `start` does
            not have the recipe's architecture and size.
        ArtifactError: `folder` has the state of another division of the latents.
        WorkbenchError: loss or gradient is not finite.
        SystemExit: SIGTERM or Ctrl-C came; the state is saved.
    """
    run = Run(d_in, recipe, metadata, device, scale, folder, checkpoint_seconds, start, frozen_latents, watch)
    with memory.kept(), interrupt.deferred() as wish, logging_redirect_tqdm(), run:
        for batch in batches(run.done):
            run.step(batch)
            leave_if_asked(wish, [run])
    return run.finished()


def train_together(runs: Sequence[Run], shards: Shards) -> None:
    """Train runs of any recipes from one reading of the shards, each in its own order and for its own number of tokens.

    A run that has ended is saved, so that it is not made anew when the others go on after a kill.

    Raises:
        WorkbenchError: loss or gradient is not finite.
        SystemExit: SIGTERM or Ctrl-C came; every run is saved.
    """
    readers = [
        Reader(run.d_in, run.recipe.batch_size, run.recipe.training_tokens, run.recipe.seed, run.done) for run in runs
    ]
    with ExitStack() as stack:
        stack.enter_context(memory.kept())
        wish = stack.enter_context(interrupt.deferred())
        stack.enter_context(logging_redirect_tqdm())
        for run in runs:
            stack.enter_context(run)
        going = [reader for reader in readers if reader.start < reader.stop]
        start, stop = min((r.start for r in going), default=0), max((r.stop for r in going), default=0)
        for turn, acts in shards(start, stop):
            for run, reader in zip(runs, readers, strict=True):
                for batch in reader.add(turn, acts):
                    run.step(batch)
                    leave_if_asked(wish, runs)
                    if run.done == run.n_steps:
                        run.save()


def norm_scale(rows: Tensor) -> float:
    """√d / mean ‖x‖: the factor that makes a row's expected norm √d (Anthropic, April 2024)."""
    return float(rows.shape[-1] ** 0.5 / rows.norm(dim=-1).mean())
