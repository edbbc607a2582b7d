"""L0 by its target: against a plant of known answer, and in training from coefficients that are far off."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary
from torch import Tensor

from sae_tools.common.read_settings import read_sae
from sae_tools.common.settings import Recipe
from sae_tools.training.sparsity import Controller
from sae_tools.training.train import train

N, D_IN = 400, 24


def test_the_factor_is_that_of_the_formula() -> None:
    control = Controller(10.0, N, first_step=2)
    for step in range(2):
        control.note(step, torch.tensor(50.0), 1.0)
    assert control.factor == 1.0  # the coefficient's own warm-up
    mean, integral = 50.0, 0.0
    for step, l0 in enumerate([50.0, 20.0, 5.0, 0.0], 2):
        control.note(step, torch.tensor([l0]), 0.5)
        mean = l0 if step == 2 else 0.9 * mean + 0.1 * l0
        error = max(-1.0, min(1.0, math.log(mean / 10)))
        integral += 0.02 / 0.5 * error
        assert control.factor == pytest.approx(math.exp(integral + 0.5 * error))


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("start", [0.1, 1.0, 50.0])
def test_a_plant_of_known_answer_ends_at_its_target(power: float, start: float) -> None:
    """L0 = 100 · coefficient^-power, behind a lag of ten steps."""
    control, l0 = Controller(20.0, 2 * N, 0), 1000.0
    for step in range(2 * N):
        l0 += 0.1 * (100 * (start * control.factor) ** -power - l0)
        control.note(step, torch.tensor(l0), 1.0)
    assert l0 == pytest.approx(20, rel=0.1)


def batches() -> list[Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dictionary = FeatureDictionary(60, D_IN, seed=0)
        generator = ActivationGenerator(60, firing_probabilities=0.06, std_firing_magnitudes=0.2)
        with torch.no_grad():
            return [dictionary(generator.sample(256)) for _ in range(N)]


@pytest.fixture(scope="module")
def rows() -> list[Tensor]:
    return batches()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def recipe(architecture: str, **values: Any) -> Recipe:
    found = read_sae(
        {"architecture": architecture, "d_sae": 96, "training_tokens": 256 * N, "batch_size": 256, "lr": 0.003,
         "lr_decay_steps": N // 2, "step": "sparse"} | values, "saes.a",
    )  # fmt: skip
    assert isinstance(found, Recipe)
    return found


JUMPRELU = {"jumprelu_ste_to_input": True, "jumprelu_init_threshold": 0.1, "jumprelu_bandwidth": 0.5}


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {"l1_coefficient": 0.01, "l1_warm_up_steps": 20}),
        ("standard", {"l1_coefficient": 3.0}),
        ("gated", {"l1_coefficient": 0.5}),
        ("jumprelu", {"l0_coefficient": 0.05, **JUMPRELU}),
    ],
)
def test_training_ends_within_a_tenth_of_the_target(
    rows: list[Tensor], architecture: str, options: dict[str, Any]
) -> None:
    for target in (5.0, 9.0):
        config = recipe(architecture, target_l0=target, **options)
        trained = train(lambda first: rows[first:], D_IN, config, {}, "cpu")
        assert trained.curve[-1]["l0"] == pytest.approx(target, rel=0.1)


def test_the_curve_tells_the_coefficient(rows: list[Tensor]) -> None:
    config = recipe("standard", l1_coefficient=0.01, target_l0=3.0)
    curve = train(lambda first: rows[first:], D_IN, config, {}, "cpu").curve
    assert curve[0]["coefficient"] == 0.01
    assert curve[-1]["coefficient"] > 0.5
    plain = train(lambda first: rows[first:20], D_IN, recipe("standard", l1_coefficient=0.01), {}, "cpu").curve
    assert {point["coefficient"] for point in plain} == {0.01}


def test_an_l0_that_does_not_move_is_told_early(rows: list[Tensor], caplog: pytest.LogCaptureFixture) -> None:
    stiff = recipe("standard", l1_coefficient=1e-9, target_l0=2.0, lr=1e-6)
    with caplog.at_level(logging.WARNING, logger="sae_tools"):
        train(lambda first: rows[first : first + N // 4], D_IN, stiff, {}, "cpu")
    assert "has hardly moved from" in caplog.text
    assert "target_l0 = 2" in caplog.text


def test_the_quadratic_loss_keeps_its_own_target() -> None:
    found = recipe("jumprelu", jumprelu_sparsity_loss_mode="quadratic", target_l0=5.0)
    assert found.target_l0 is None
    assert found.architecture_options["target_l0"] == 5.0
