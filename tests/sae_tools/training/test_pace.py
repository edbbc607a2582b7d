"""Where no measurement tells, the clock decides between the two ways of a step, and nothing but time depends on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools.common.settings import Recipe
from sae_tools.training import pace, steps
from sae_tools.training.pace import TURNS, Pace
from sae_tools.training.run import Trained
from sae_tools.training.train import train

D_IN, D_SAE, BATCH, STEPS = 12, 128, 16, 40
SECONDS = {"sparse": {"sparse": 1.0, "dense": 3.0}, "dense": {"sparse": 3.0, "dense": 1.0}}


class Clock:
    """A clock by which one way of a step is faster, and a record of the ways taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, faster: str) -> None:
        self.time, self.taken, self.seconds = 0.0, [], SECONDS[faster]  # type: ignore[var-annotated]
        monkeypatch.setattr(steps, "now", lambda _: self.time)
        for way in ("sparse", "dense"):
            monkeypatch.setattr(steps.Stepper, f"_{way}", self._timed(way, getattr(steps.Stepper, f"_{way}")))

    def _timed(self, way: str, step: Any) -> Any:
        def timed(stepper: Any, inputs: Any) -> Any:
            result = step(stepper, inputs)
            if result is not None:
                self.time += self.seconds[way]
                self.taken.append(way)
            return result

        return timed


def rows(first: int) -> Iterator[Tensor]:
    yield from torch.randn(STEPS, BATCH, D_IN, generator=torch.Generator().manual_seed(0))[first:]


def run(architecture: str = "topk", folder: Path | None = None, **values: Any) -> Trained:
    options = {"topk": {"k": 2}, "standard": {"l1_coefficient": 8.0}}[architecture]
    settings: dict[str, Any] = {"lr": 3e-3, "product_dtype": "float32"} | values
    recipe = Recipe(architecture, D_SAE, STEPS * BATCH, BATCH, architecture_options=options, **settings)
    return train(rows, D_IN, recipe, {}, "cpu", folder=folder, checkpoint_seconds=0.0)


@pytest.mark.parametrize("faster", SECONDS)
def test_the_faster_way_is_taken_and_changes_nothing_but_rounding(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, faster: str
) -> None:
    expected = run(step="sparse").sae
    clock = Clock(monkeypatch, faster)
    with caplog.at_level(logging.INFO, "sae_tools"):
        found = run().sae
    assert clock.taken == [*["sparse", "dense"] * TURNS, *[faster] * (STEPS - 2 * TURNS)]
    for name, parameter in expected.named_parameters():
        torch.testing.assert_close(dict(found.named_parameters())[name], parameter, rtol=1e-3, atol=1e-4)
    told = [message for message in caplog.messages if "from here on" in message]
    assert len(told) == 1
    assert told[0].endswith(f"{faster} from here on")


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_what_the_recipe_says_is_done_without_a_trial(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    clock = Clock(monkeypatch, "dense" if way == "sparse" else "sparse")
    run(step=way)
    assert clock.taken == [way] * STEPS


def test_a_checkpoint_keeps_the_choice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def dies(step: int) -> Any:
        def after(_: object) -> None:
            if len(clock.taken) == step:
                raise Killed

        return after

    for step in (TURNS, 2 * TURNS + 3):  # in the middle of the trial, and after it
        folder = tmp_path / str(step)
        with monkeypatch.context() as patch:
            clock = Clock(patch, "dense")
            patch.setattr("sae_tools.training.run.reach", dies(step))
            with pytest.raises(Killed):
                run(folder=folder)
        with monkeypatch.context() as patch:
            again = Clock(patch, "dense" if step == TURNS else "sparse")
            run(folder=folder)
        whole = [*clock.taken[:-1], *again.taken]  # the step that died is done again
        assert whole == [*["sparse", "dense"] * TURNS, *["dense"] * (STEPS - 2 * TURNS)]


def test_steps_on_which_many_latents_fire_are_no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fresh ReLU weights fire half of all latents: the dense pass, whatever the clock says."""
    clock = Clock(monkeypatch, "sparse")
    run("standard")
    first = clock.taken.index("sparse")
    assert first > 0
    assert set(clock.taken[:first]) == {"dense"}


def test_shapes_that_were_measured_need_no_trial() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert pace.is_measured(cpu, 256 * 4096 * 1024, 0.01)
    assert not pace.is_measured(cpu, 12 * 128 * 16, 0.01)
    assert not pace.is_measured(cpu, 256 * 4096 * 1024, 0.1)
    assert not pace.is_measured(gpu, 256 * 4096 * 1024, 0.01)


def test_the_dense_way_is_tried_anew_when_half_as_many_latents_fire() -> None:
    choice = Pace(None)
    for seconds in [(3.0, 1.0)] * TURNS:
        choice.note(True, seconds[0], 0.04)
        choice.note(False, seconds[1], 0.04)
    assert choice.sparse is False
    choice.note(False, 1.0, 0.021)
    assert choice.sparse is False
    choice.note(False, 1.0, 0.019)
    assert choice.sparse is None
    assert choice.takes_sparse()


def test_a_first_slow_step_of_a_way_does_not_count() -> None:
    choice = Pace(None)
    for turn in range(TURNS):
        choice.note(True, 9.0 if turn == 0 else 1.0, 0.01)
        choice.note(False, 2.0, 0.01)
    assert choice.sparse is True
