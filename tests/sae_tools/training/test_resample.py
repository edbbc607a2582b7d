"""Resampling against a reading of Bricken et al. latent by latent."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common.draws import generator
from sae_tools.common.settings import Recipe
from sae_tools.saes import TrainStepInput
from sae_tools.training.resample import resample
from sae_tools.training.steps import Stepper
from sae_tools.training.train import train

D_IN, D_SAE, N = 8, 30, 40
DEAD = torch.arange(D_SAE) % 3 == 0


def trained(**options: Any) -> tuple[Stepper, torch.optim.Optimizer]:
    """An SAE after a step of Adam, with decoder rows and biases of their own."""
    sae = saes.build("standard", D_IN, D_SAE, options, {}, 0, "cpu").train()
    with torch.no_grad():
        sae.W_dec *= torch.linspace(0.5, 2, D_SAE)[:, None]
        sae.b_dec += 0.3
    stepper = Stepper(sae, torch.float32)
    optimizer = torch.optim.Adam(stepper.parameters.values(), lr=0.01, fused=True)
    rows, _ = batch()
    stepper(TrainStepInput(rows, saes.coefficients(sae, 0), None, 0, False))
    optimizer.step()
    return stepper, optimizer


def batch() -> tuple[Tensor, Tensor]:
    """Rows, and what is subtracted of them: a row's loss grows with its number."""
    rows = torch.randn(N, D_IN, generator=torch.Generator().manual_seed(0))
    return rows, rows - torch.arange(N)[:, None] / N


def resampled(rows: Tensor, sae_out: Tensor, seed: int = 0) -> tuple[Stepper, torch.optim.Optimizer]:
    stepper, optimizer = trained()
    resample(stepper.sae, stepper.parameters, optimizer, rows, sae_out, DEAD, generator(seed))
    return stepper, optimizer


def test_dead_latents_get_a_badly_reconstructed_input_s_direction_and_the_others_stay() -> None:
    before, adam = trained()
    after, optimizer = resampled(*batch())
    was, now = ({name: t.detach() for name, t in stepper.parameters.items()} for stepper in (before, after))
    live = [i for i in range(D_SAE) if not DEAD[i]]
    encoder_norm = sum(float(was["W_enc"][i].norm()) for i in live) / len(live)
    decoder_norm = sum(float(was["W_dec"][i].norm()) for i in live) / len(live)
    directions = torch.nn.functional.normalize(batch()[0] - was["b_dec"], dim=-1)
    for i in range(D_SAE):
        if i in live:
            assert all(torch.equal(now[name][i], was[name][i]) for name in ("W_enc", "W_dec", "b_enc"))
            continue
        assert float(now["W_enc"][i].norm()) == pytest.approx(0.2 * encoder_norm, rel=1e-5)
        assert float(now["W_dec"][i].norm()) == pytest.approx(decoder_norm, rel=1e-5)
        assert float((directions @ now["W_dec"][i]).max()) == pytest.approx(decoder_norm, rel=1e-5)
        torch.testing.assert_close(now["W_enc"][i] / (0.2 * encoder_norm), now["W_dec"][i] / decoder_norm)
        assert now["b_enc"][i] == 0
    assert torch.equal(now["b_dec"], was["b_dec"])
    assert torch.equal(after.sae.W_enc.T, now["W_enc"]), "the SAE must see the new rows"
    for name in ("W_enc", "W_dec", "b_enc"):
        for moment in ("exp_avg", "exp_avg_sq"):
            new, old = (o.state[p[name]][moment] for o, p in ((optimizer, after.parameters), (adam, before.parameters)))
            assert not new[DEAD].any()
            assert torch.equal(new[~DEAD], old[~DEAD])
            assert old[DEAD].any()


def chosen(stepper: Stepper, rows: Tensor) -> Tensor:
    """Which row each dead latent's decoder row points along."""
    directions = torch.nn.functional.normalize(rows - stepper.sae.b_dec, dim=-1)
    return (directions @ stepper.parameters["W_dec"][DEAD].T).argmax(dim=0)


def test_a_row_with_all_the_loss_is_taken_by_every_latent() -> None:
    rows, _ = batch()
    sae_out = rows.clone()
    sae_out[17] += 1
    stepper, _ = resampled(rows, sae_out)
    assert set(chosen(stepper, rows).tolist()) == {17}


def test_rows_are_drawn_by_the_square_of_their_loss() -> None:
    """χ² of 3,000 draws from four rows with squared errors 1, 2, 3 and 4; its 99.9% point at 3 degrees is 16.3."""
    rows = torch.eye(4, D_IN)
    sae_out = rows - torch.tensor([1.0, 2.0, 3.0, 4.0]).sqrt()[:, None] * torch.eye(4, D_IN)
    counts = torch.zeros(4)
    stepper, optimizer = trained()
    for seed in range(300):
        resample(stepper.sae, stepper.parameters, optimizer, rows, sae_out, DEAD, generator(seed))
        counts += torch.bincount(chosen(stepper, rows), minlength=4)
    expected = counts.sum() * torch.tensor([1.0, 4.0, 9.0, 16.0]) / 30
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.3


@pytest.mark.parametrize("dead", [torch.zeros(D_SAE, dtype=torch.bool), torch.ones(D_SAE, dtype=torch.bool)])
def test_with_none_dead_or_none_alive_nothing_changes(dead: Tensor) -> None:
    (before, _), (after, optimizer) = trained(), trained()
    resample(after.sae, after.parameters, optimizer, *batch(), dead, generator(0))
    assert all(torch.equal(t, before.parameters[name]) for name, t in after.parameters.items())


def test_fewer_latents_are_dead_after_training_with_it() -> None:
    """Rows are sparse sums of 24 directions in 12 dimensions, far from 0: encoder rows that look away never fire."""
    chance = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(24, 12, generator=chance), dim=-1)
    sums = [(torch.rand(256, 24, generator=chance) < 0.1).float() @ directions * 3 for _ in range(200)]
    rows = [batch + 20 * directions[0] for batch in sums]

    def last(every: int) -> dict[str, float]:
        recipe = Recipe(
            "standard", 48, 200 * 256, 256, lr=0.01, lr_decay_steps=50, dead_after_tokens=10 * 256,
            resample_every=every, architecture_options={"l1_coefficient": 1.0},
        )  # fmt: skip
        return train(lambda first: rows[first:], 12, recipe, {}, "cpu").curve[-1]

    n = torch.get_num_threads()
    torch.set_num_threads(1)  # two would only wait for each other at this size
    without, with_it = last(0), last(25)
    torch.set_num_threads(n)
    assert without["dead_share"] > 0.2
    assert with_it["dead_share"] < without["dead_share"] / 2
    assert with_it["explained_variance"] > without["explained_variance"]
