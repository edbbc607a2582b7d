"""One SAE's steps: nothing changes where it must not, several seeds do not meet, and SAELens' trainer ends alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from sae_tools import saes
from sae_tools.common.errors import WorkbenchError
from sae_tools.common.settings import Recipe
from sae_tools.metrics.dictionary import agreement
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.training.train import train
from sae_tools.training.trainee import Trainee
from tests.conftest import ARCHITECTURES

D_IN, D_SAE, BATCH = 12, 64, 128


def recipe(architecture: str, options: dict[str, Any] | None = None, n_steps: int = 20, **values: Any) -> Recipe:
    own = ARCHITECTURES[architecture] | (options or {})
    values = {"step": "sparse", "lr": 3e-3, "product_dtype": "float32"} | values
    return Recipe(architecture, D_SAE, n_steps * BATCH, BATCH, architecture_options=own, **values)


def batches(n: int) -> list[Tensor]:
    """Sparse sums of 40 directions, more than there are dimensions, and a little noise."""
    chance = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(40, D_IN, generator=chance), dim=-1)
    on = (torch.rand(n, BATCH, 40, generator=chance) < 0.06) * torch.rand(n, BATCH, 40, generator=chance)
    return list(4 * on @ directions + 0.05 * torch.randn(n, BATCH, D_IN, generator=chance))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads only wait for each other at these sizes."""
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


# --- numbers that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_refused_step_changes_nothing(architecture: str, bad: float) -> None:
    trainee = Trainee(recipe(architecture), 0, D_IN, {}, "cpu", torch.float32)
    rows = batches(4)
    for step in range(3):
        trainee.step(rows[step], step, 20)
    before = {name: tensor.clone() for name, tensor in trainee.tensors().items()}
    rows[3][5, 2] = bad
    with pytest.raises(WorkbenchError, match=r"at step 3 the loss is .*rows \[5\] of the batch"):
        trainee.step(rows[3], 3, 20)
    after = trainee.tensors()
    assert after.keys() == before.keys()
    for name, tensor in after.items():
        # BatchTopK's threshold for use after training has moved; the run ends, so nobody sees it.
        assert name == "buffers.topk_threshold" or torch.equal(tensor, before[name]), name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_is_restored_goes_on_as_the_original_does(architecture: str) -> None:
    config, rows = recipe(architecture, dead_after_tokens=2 * BATCH), batches(8)
    one, two = (Trainee(config, seed, D_IN, {}, "cpu", torch.float32) for seed in (0, 1))
    for step in range(4):
        one.step(rows[step], step, 8)
    two.restore({name: tensor.clone() for name, tensor in one.tensors().items()})
    for trainee in (one, two):
        for step in range(4, 8):
            trainee.step(rows[step], step, 8)
    for name, tensor in two.tensors().items():
        assert torch.equal(tensor, one.tensors()[name]), name


# --- several seeds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["batchtopk", "standard"])
def test_seeds_trained_together_are_those_trained_apart(architecture: str) -> None:
    rows, values = batches(20), {"dead_after_tokens": 4 * BATCH, "resample_every": 5 * (architecture == "standard")}

    def run(**more: int) -> Any:
        config = recipe(architecture, {"l1_coefficient": 2.0} if architecture == "standard" else None, **values, **more)
        return train(lambda first: rows[first:], D_IN, config, {}, "cpu")

    together = run(seeds=3)
    for seed, (sae, live) in enumerate(zip(together.saes, together.live, strict=True)):
        alone = run(seed=seed)
        assert torch.equal(live, alone.live[0])
        for name, tensor in alone.sae.state_dict().items():
            assert torch.equal(sae.state_dict()[name], tensor), name
    assert not torch.equal(together.saes[0].W_dec, together.saes[1].W_dec)


def test_agreement_of_equal_and_of_orthogonal_decoders() -> None:
    rows, all_live = torch.eye(6) * torch.arange(1, 7)[:, None], torch.ones(3, dtype=torch.bool)
    same = agreement([rows[:3], rows[[2, 0, 1]] * 5], [all_live, all_live])
    assert same == pytest.approx({"mean_max_cosine": 1.0, "share_in_all": 1.0})
    assert agreement([rows[:3], rows[3:]], [all_live, all_live]) == {"mean_max_cosine": 0.0, "share_in_all": 0.0}


def test_agreement_is_a_double_loop_s_and_leaves_dead_latents_out() -> None:
    chance = torch.Generator().manual_seed(0)
    decoders = [torch.randn(n, 4, generator=chance) for n in (20, 30, 25)]
    live = [torch.rand(len(d), generator=chance) < 0.7 for d in decoders]
    rows = [[row for row, keep in zip(d, mask, strict=True) if keep] for d, mask in zip(decoders, live, strict=True)]
    best = [
        [max(float(row @ other / row.norm() / other.norm()) for other in others) for others in rows[1:]]
        for row in rows[0]
    ]
    found = agreement(decoders, live, same=0.8)
    assert found["mean_max_cosine"] == pytest.approx(sum(map(sum, best)) / len(best) / 2, rel=1e-5)
    assert found["share_in_all"] == pytest.approx(sum(min(cosines) >= 0.8 for cosines in best) / len(best))
    assert 0 < found["share_in_all"] < 1
    none = torch.zeros(25, dtype=torch.bool)
    assert agreement(decoders[:2] + decoders[2:], [*live[:2], none]) == {"mean_max_cosine": 0.0, "share_in_all": 0.0}


# --- a run beside SAELens' -------------------------------------------------------------------------------------------

STEPS, WINDOW = 200, 15
TOLERANCE = {"explained_variance": 0.01, "l0": 0.05, "dead_share": 0.02}


@pytest.mark.parametrize(
    ("architecture", "options"), [("topk", {"k": 3}), ("batchtopk", {"k": 2.0}), ("standard", {"l1_coefficient": 0.3})]
)
def test_200_steps_end_where_saelens_s_trainer_does(architecture: str, options: dict[str, Any]) -> None:
    rows = batches(STEPS + 16)
    config = recipe(architecture, options, STEPS, dead_after_tokens=(WINDOW + 1) * BATCH, lr_decay_steps=40)
    ours = train(lambda first: rows[first:STEPS], D_IN, config, {}, "cpu").sae
    theirs = saes.build(architecture, D_IN, D_SAE, config.architecture_options, {}, 0, "cpu")
    trainer = SAETrainerConfig(
        STEPS * BATCH, BATCH, lr=config.lr, lr_end=config.lr, lr_decay_steps=40, dead_feature_window=WINDOW
    )
    SAETrainer(trainer, theirs, iter(rows)).fit()
    x = torch.cat(rows[STEPS:])
    found, expected = numbers(ours, x), numbers(theirs, x)
    for name, tolerance in TOLERANCE.items():
        assert found[name] == pytest.approx(expected[name], abs=tolerance), name


@torch.no_grad()
def numbers(sae: Any, x: Tensor) -> dict[str, float]:
    acts = sae.encode(x)
    on = acts != 0
    return {
        "explained_variance": explained_variance(x, sae.decode(acts)),
        "l0": float(on.sum(-1).float().mean()),
        "dead_share": float((~on.any(0)).float().mean()),
    }
