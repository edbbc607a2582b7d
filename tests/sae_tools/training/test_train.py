"""The loop against SAELens' own trainer, known ground truth, and closed forms."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.synthetic import ActivationGenerator, FeatureDictionary
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_tools import saes
from sae_tools.common.errors import SettingError, WorkbenchError
from sae_tools.common.settings import Recipe
from sae_tools.training.run import CURVE_POINTS, Trained
from sae_tools.training.train import norm_scale
from sae_tools.training.train import train as train_from
from sae_tools.training.trainee import learning_rate
from tests.conftest import ARCHITECTURES, OF_SAELENS

D_IN = 16


def recipe(architecture: str = "topk", options: dict[str, Any] | None = None, **values: Any) -> Recipe:
    own = ARCHITECTURES[architecture] | (options or {})
    defaults = {"d_sae": 64, "training_tokens": 20 * 32, "batch_size": 32, "lr": 1e-3, "product_dtype": "float32"}
    defaults["step"] = "sparse"
    return Recipe(architecture=architecture, architecture_options=own, **{**defaults, **values})


def batches(n: int = 20, size: int = 32, seed: int = 0) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [2 * torch.randn(size, D_IN, generator=chance) + 0.3 for _ in range(n)]


def train(rows: list[Tensor], d_in: int, config: Recipe, *args: Any, **options: Any) -> Trained:
    return train_from(lambda first: rows[first:], d_in, config, *args, **options)


def numbers(curve: list[dict[str, float]]) -> list[dict[str, float]]:
    """A curve without its clock."""
    return [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in curve]


def state(sae: Any) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in sae.state_dict().items()}


# --- known ground truth ----------------------------------------------------------------------------------------------

N_FEATURES, HIDDEN = 40, 24  # more features than dimensions: superposition


@pytest.fixture(scope="module")
def toy() -> tuple[Tensor, list[Tensor]]:
    """Unit directions, and batches of their sparse sums; 2 of 40 are on at a time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dictionary = FeatureDictionary(N_FEATURES, HIDDEN, seed=0)
        generator = ActivationGenerator(N_FEATURES, firing_probabilities=0.05, std_firing_magnitudes=0.2)
        with torch.no_grad():
            rows = [dictionary(generator.sample(1024)) for _ in range(300)]
    return dictionary.feature_vectors.detach(), rows


@pytest.mark.parametrize(
    ("architecture", "options"),
    [("topk", {"k": 3}), ("batchtopk", {"k": 2.0}), ("standard", {"l1_coefficient": 0.3, "l1_warm_up_steps": 100})],
)
def test_the_true_features_of_a_toy_superposition_are_found(
    toy: tuple[Tensor, list[Tensor]], architecture: str, options: dict[str, Any]
) -> None:
    truth, rows = toy
    config = recipe(
        architecture, options, d_sae=N_FEATURES, training_tokens=300 * 1024, batch_size=1024, lr=1e-2,
        lr_decay_steps=100, dead_after_tokens=20_000,
    )  # fmt: skip
    trained = train(rows, HIDDEN, config, {}, "cpu")
    directions = torch.nn.functional.normalize(trained.sae.W_dec.detach(), dim=-1)
    best = (truth @ directions.T).max(dim=1).values
    assert best.mean() >= 0.9
    assert trained.curve[-1]["explained_variance"] > 0.8


# --- the loop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", OF_SAELENS)
def test_steps_equal_saelens_s_trainer(architecture: str) -> None:
    options = {"standard": {"l1_warm_up_steps": 8}, "jumprelu": {"l0_warm_up_steps": 8}}.get(architecture)
    config = recipe(architecture, options, lr_warm_up_steps=5, lr_decay_steps=6)
    ours = train(batches(), D_IN, config, {}, "cpu").sae
    theirs = saes.build(architecture, D_IN, config.d_sae, config.architecture_options, {}, config.seed, "cpu")
    trainer_config = SAETrainerConfig(
        total_training_samples=config.training_tokens, train_batch_size_samples=config.batch_size, lr=config.lr,
        lr_end=config.lr, lr_warm_up_steps=5, lr_decay_steps=6,
    )  # fmt: skip
    SAETrainer(trainer_config, theirs, iter(batches())).fit()
    start = state(saes.build(architecture, D_IN, config.d_sae, config.architecture_options, {}, config.seed, "cpu"))
    torch.testing.assert_close(state(ours), state(theirs), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours.W_dec, start["W_dec"], atol=1e-3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_runs_are_equal_bit_by_bit(architecture: str) -> None:
    one = train(batches(), D_IN, recipe(architecture), {}, "cpu")
    torch.rand(3)
    two = train(batches(), D_IN, recipe(architecture), {}, "cpu")
    assert numbers(one.curve) == numbers(two.curve)
    assert all(torch.equal(t, two.sae.state_dict()[name]) for name, t in one.sae.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_scale_is_folded_into_the_weights(architecture: str) -> None:
    """An SAE trained on scaled rows and folded does on raw rows what the unfolded one does on scaled rows."""
    scale = 0.37
    config = recipe(architecture, {"normalize_activations": "expected_average_only_in"})
    folded = train(batches(), D_IN, config, {}, "cpu", scale).sae.eval()
    plain = train([batch * scale for batch in batches()], D_IN, config, {}, "cpu").sae.eval()
    x = batches(1, seed=5)[0]
    f, g = folded.encode(x), plain.encode(x * scale)
    # Where decoder rows count as of length 1, features are in units of the raw activation, else in those of training.
    units = 1.0 if architecture in ("standard", "gated", "jumprelu") else scale
    torch.testing.assert_close(f * units, g, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(folded(x) * scale, plain(x * scale), rtol=1e-3, atol=1e-4)
    assert folded.cfg.normalize_activations == "none"


@pytest.mark.parametrize("architecture", ["topk", "standard", "jumprelu"])
def test_the_saved_sae_reads_raw_rows(tmp_path: Any, architecture: str) -> None:
    config = recipe(architecture, {"normalize_activations": "expected_average_only_in"})
    sae = train(batches(), D_IN, config, {}, "cpu", 0.37).sae.eval()
    saes.save(sae, tmp_path)
    x = batches(1, seed=5)[0]
    torch.testing.assert_close(saes.load(tmp_path)(x), sae(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_run_time_normalisation_trains(normalisation: str) -> None:
    config = recipe("standard", {"normalize_activations": normalisation, "l1_coefficient": 0.01}, lr=1e-2)
    curve = train(batches(60), D_IN, config, {}, "cpu").curve
    assert curve[-1]["explained_variance"] > curve[0]["explained_variance"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_at_once(bad: float) -> None:
    rows = batches()
    rows[7][3, 5] = bad
    given: list[int] = []

    def feed(first: int) -> Iterator[Tensor]:
        for i, batch in enumerate(rows[first:]):
            given.append(i)
            yield batch

    with pytest.raises(WorkbenchError, match=r"at step 7 the loss is .*rows \[3\] of the batch"):
        train_from(feed, D_IN, recipe("standard"), {}, "cpu")
    assert given[-1] == 7


def test_a_refused_option_is_a_setting_error() -> None:
    with pytest.raises(SettingError, match="topk"):
        train(batches(), D_IN, recipe("topk", {"nonsense": 1}), {}, "cpu")


# --- schedules, curve, dead latents ----------------------------------------------------------------------------------


def test_the_learning_rate_is_a_trapezoid() -> None:
    config = recipe(lr_warm_up_steps=4, lr_decay_steps=5)
    shares = [learning_rate(step, 12, config) for step in range(12)]
    assert shares == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])
    assert {learning_rate(step, 12, recipe()) for step in range(12)} == {1.0}


def test_warm_up_and_decay_may_overlap() -> None:
    config = recipe(lr_warm_up_steps=6, lr_decay_steps=6)
    shares = [learning_rate(step, 6, config) for step in range(6)]
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_the_curve_s_numbers_are_those_of_the_steps() -> None:
    config = recipe("topk", dead_after_tokens=64)
    trained = train(batches(), D_IN, config, {}, "cpu")
    assert [row["step"] for row in trained.curve] == list(range(20))
    assert [row["tokens"] for row in trained.curve] == [32 * (i + 1) for i in range(20)]
    assert all(0 < row["l0"] <= 4 and math.isfinite(row["loss"]) for row in trained.curve)
    first = saes.build("topk", D_IN, 64, config.architecture_options, {}, 0, "cpu")
    x = batches()[0]
    x_hat = first(x).detach()
    variance = 1 - float((x - x_hat).square().sum() / (x - x.mean(dim=0)).square().sum())
    assert trained.curve[0]["explained_variance"] == pytest.approx(variance, rel=1e-4)


@pytest.mark.parametrize("n", [1, CURVE_POINTS, 2 * CURVE_POINTS + 7])
def test_the_curve_ends_at_the_last_step_and_stays_short(n: int) -> None:
    config = recipe("standard", d_sae=8, batch_size=2, training_tokens=2 * n)
    curve = train(batches(n, 2), D_IN, config, {}, "cpu").curve
    assert curve[-1]["step"] == n - 1
    assert curve[-1]["tokens"] == 2 * n
    assert len(curve) <= 2 * CURVE_POINTS


def test_dead_latents_equal_a_brute_force_count() -> None:
    """A latent is dead when it has been silent for `dead_after_tokens` tokens; the curve says what share is."""
    config = recipe("topk", {"k": 2}, dead_after_tokens=96, lr=0.03)
    rows = batches()
    curve = train(rows, D_IN, config, {}, "cpu").curve
    fired: list[Tensor] = []
    for step in range(len(rows)):  # what fires in a step is what a run that ends before it would encode
        if step:
            shorter = Recipe(**{**vars(config), "training_tokens": 32 * step})
            sae = train(rows[:step], D_IN, shorter, {}, "cpu").sae
        else:
            sae = saes.build("topk", D_IN, 64, config.architecture_options, {}, 0, "cpu")
        fired.append((sae.encode(rows[step]) != 0).any(dim=0))
        last = [max((i for i in range(step + 1) if fired[i][j]), default=-1) for j in range(64)]
        silent = [32 * (step - i) for i in last]
        share = sum(s >= 96 for s in silent) / 64
        assert curve[step]["dead_share"] == pytest.approx(share), step
    assert 0 < curve[-1]["dead_share"] < 1


def test_norm_scale_makes_the_mean_norm_the_root_of_d() -> None:
    rows = batches(1, 500)[0]
    scaled = rows * norm_scale(rows)
    assert float(scaled.norm(dim=-1).mean()) == pytest.approx(D_IN**0.5, rel=1e-5)
