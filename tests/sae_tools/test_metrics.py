"""Each metric against its formula worked out by hand or by numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import kurtosis
from torch import Tensor

from sae_tools.metrics import averages, dictionary, predictions, reconstruction


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def pair(chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows with a mean far from 0, so that a variance about 0 shows, and a reconstruction."""
    x = torch.randn(200, 16, generator=chance) + 3
    return x, 0.9 * x + 0.3 * torch.randn(200, 16, generator=chance)


def test_explained_variance_by_numpy(pair: tuple[Tensor, Tensor]) -> None:
    x, x_hat = (t.double().numpy() for t in pair)
    expected = 1 - ((x - x_hat) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum()
    assert reconstruction.explained_variance(*pair) == pytest.approx(expected, rel=1e-9)


def test_explained_variance_is_1_for_itself_0_for_the_mean_and_below_for_worse(pair: tuple[Tensor, Tensor]) -> None:
    x = pair[0].double()
    assert reconstruction.explained_variance(x, x) == 1
    assert reconstruction.explained_variance(x, x.mean(dim=0).expand_as(x)) == pytest.approx(0, abs=1e-12)
    assert reconstruction.explained_variance(x, -x) < -1
    noise = torch.randn(100_000, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert reconstruction.explained_variance(noise, noise / 2) == pytest.approx(0.75, abs=1e-4)  # 1 - (1/2)²


def test_moments_do_not_depend_on_how_rows_are_batched(pair: tuple[Tensor, Tensor]) -> None:
    whole, parts = (reconstruction.Moments(pair[0].shape[1]) for _ in range(2))
    whole.add(*pair)
    for a, b in zip(*(torch.split(t, [1, 150, 49]) for t in pair), strict=True):
        parts.add(a, b)
    for name in ("mse", "explained_variance", "relative_reconstruction_bias"):
        assert getattr(parts, name)() == pytest.approx(getattr(whole, name)(), rel=1e-12)


def test_explained_variance_survives_a_large_mean(chance: torch.Generator) -> None:
    x = torch.randn(1000, 8, generator=chance, dtype=torch.float64)
    x_hat = x + 0.1 * torch.randn(1000, 8, generator=chance, dtype=torch.float64)
    near, far = reconstruction.explained_variance(x, x_hat), reconstruction.explained_variance(x + 1e4, x_hat + 1e4)
    assert far == pytest.approx(near, rel=1e-5)


def test_mse_is_summed_over_dimensions_and_bias_is_the_ratio_of_means() -> None:
    moments = reconstruction.Moments(2)
    moments.add(torch.tensor([[3.0, 4.0], [0.0, 1.0]]), torch.tensor([[0.0, 4.0], [0.0, 3.0]]))
    assert moments.mse() == (9 + 4) / 2
    assert moments.relative_reconstruction_bias() == (16 + 9) / (16 + 3)


def test_per_token_metrics_by_hand() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    x_hat = torch.tensor([[4.0, 3.0], [0.0, 1.0]])
    f = torch.tensor([[0.0, 2.0, -1.0], [0.0, 0.0, 0.5]])
    values = reconstruction.per_token(x, x_hat, f.to_sparse())
    expected = {
        "l0": [2, 1],
        "l1": [3, 0.5],
        "cossim": [24 / 25, 1],
        "l2_norm_in": [5, 2],
        "l2_norm_out": [5, 1],
        "l2_ratio": [1, 0.5],
    }
    assert set(values) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(values[name], torch.tensor(value, dtype=torch.float32), msg=name)


def test_cross_entropy_and_divergence_of_known_probabilities() -> None:
    p = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [1 / 3, 1 / 3, 1 / 3]]])
    q = p[:, :, [1, 0, 2]]
    ids = torch.tensor([[0, 1, 2]])
    others = {"q": q.log() - 5, "same": p.log()}
    clean, found = predictions.losses(ids, p.log() + 7, others)  # a shift of logits changes nothing
    torch.testing.assert_close(clean, -torch.tensor([[0.25, 0.1]]).log())
    torch.testing.assert_close(found["q"][0], -torch.tensor([[0.5, 0.1]]).log())
    # The other way round, Σ q log(q / p), the second would be another number.
    expected = [0.5 * math.log(2) + 0.25 * math.log(0.5), 0.1 * math.log(1 / 8) + 0.8 * math.log(8), 0.0]
    torch.testing.assert_close(found["q"][1], torch.tensor([expected]))
    torch.testing.assert_close(found["same"], (clean, torch.zeros(1, 3)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("at_once", [1, 300, 2**20])
def test_losses_equal_pytorch_s_however_they_are_cut(
    chance: torch.Generator, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(predictions, "AT_ONCE", at_once)
    logits, other = (4 * torch.randn(3, 7, 50, generator=chance) for _ in range(2))
    shared = torch.randn(1, 7, 50, generator=chance)
    ids = torch.randint(50, (3, 7), generator=chance)
    clean, found = predictions.losses(ids, logits.bfloat16(), {"other": other, "shared": shared})
    log_p = logits.bfloat16().double().log_softmax(-1)

    def crossed(log_q: Tensor) -> Tensor:
        return F.nll_loss(log_q[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(3, 6).float()

    torch.testing.assert_close(clean, crossed(log_p))
    for name, q in {"other": other, "shared": shared.expand(3, -1, -1)}.items():
        log_q = q.double().log_softmax(-1)
        torch.testing.assert_close(found[name][0], crossed(log_q))
        expected = F.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).float()
        torch.testing.assert_close(found[name][1], expected)


def test_scores() -> None:
    assert predictions.ce_loss_score(2.0, 2.0, 10.0) == 1
    assert predictions.ce_loss_score(2.0, 10.0, 10.0) == 0
    assert predictions.ce_loss_score(2.0, 4.0, 10.0) == 0.75
    assert predictions.kl_div_score(0.0, 5.0) == 1
    assert predictions.kl_div_score(1.0, 4.0) == 0.75


def test_the_old_explained_variance_is_a_mean_of_ratios(pair: tuple[Tensor, Tensor]) -> None:
    x, x_hat = (t.double().numpy() for t in pair)
    expected = 1 - ((x - x_hat) ** 2).sum(axis=1) / ((x - x.mean(axis=0)) ** 2).sum(axis=1)
    np.testing.assert_allclose(reconstruction.explained_variance_legacy(*pair), expected, rtol=1e-4)


def test_r2_of_each_dimension_by_numpy(pair: tuple[Tensor, Tensor]) -> None:
    x, x_hat = pair
    x[:, 3], x_hat[:, 3] = 7.3, 7.0  # does not vary
    moments = reconstruction.Moments(x.shape[1])
    for part in zip(torch.split(x, 60), torch.split(x_hat, 60), strict=True):
        moments.add(*part)
    a, b = x.double().numpy(), x_hat.double().numpy()
    expected = 1 - ((a - b) ** 2).sum(axis=0) / np.maximum(((a - a.mean(axis=0)) ** 2).sum(axis=0), 1e-300)
    expected[3] = 0
    np.testing.assert_allclose(moments.r2_per_dimension(), expected, rtol=1e-6)


def test_a_histogram_s_percentiles_are_numpy_s_to_a_step(chance: torch.Generator) -> None:
    whole, parts = torch.randint(0, 50, (999,), generator=chance), averages.Histogram(0, 64, 64)
    for part in torch.split(whole, 100):
        parts.add(part)
    for share in (0.05, 0.5, 0.95, 1.0):
        assert parts.percentile(share) == np.quantile(whole.numpy(), share, method="inverted_cdf")
    assert parts.counts.tolist() == np.bincount(whole.numpy(), minlength=64).tolist()
    parts.add(torch.tensor([-5.0, 1e9]))
    assert int(parts.counts.sum()) == 1001


def test_agreement_of_the_likeliest_by_sets(chance: torch.Generator) -> None:
    a = torch.randn(2, 5, 30, generator=chance)
    b = a + 0.5 * torch.randn(2, 5, 30, generator=chance)
    found = predictions.top_agreement(a, b)
    for i in range(2):
        for j in range(5):
            one, other = (np.argsort(-t[i, j].numpy())[:5] for t in (a, b))
            assert found["top1_agreement"][i, j] == (one[0] == other[0])
            assert found["top5_agreement"][i, j] == pytest.approx(len({*one} & {*other}) / 5)
    assert predictions.top_agreement(a, a + 3)["top5_agreement"].min() == 1
    assert predictions.top_agreement(a[..., :3], -a[..., :3])["top5_agreement"].min() == 1  # a vocabulary of three


def test_weights_by_hand() -> None:
    W_dec = torch.tensor([[3.0, 4.0], [6.0, 8.0], [-4.0, 3.0]])
    W_enc = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 0.0]])
    found = dictionary.weights(W_enc, torch.tensor([0.1, 0.2, 0.3]), W_dec)
    expected = {
        "encoder_norm": [5, 2, 1], "encoder_bias": [0.1, 0.2, 0.3], "encoder_decoder_cosine_sim": [1, 0.8, -0.8],
        "decoder_norm": [5, 10, 5], "max_decoder_cosine_sim": [1, 1, 0],
    }  # fmt: skip
    assert set(found) == set(expected)
    for name, values in expected.items():
        torch.testing.assert_close(found[name], torch.tensor(values, dtype=torch.float32), msg=name)
    assert dictionary.max_cosine(W_dec[:1]).tolist() == [0]


def test_the_largest_cosine_by_brute_force(chance: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionary, "BLOCK", 7)
    directions = torch.randn(40, 6, generator=chance)
    cosines = F.cosine_similarity(directions[:, None], directions[None], dim=-1).fill_diagonal_(-2)
    torch.testing.assert_close(dictionary.max_cosine(directions), cosines.amax(dim=1))


def test_spread_equals_scipy_s_kurtosis_and_a_sorted_share(chance: torch.Generator) -> None:
    rows = torch.randn(6, 100, generator=chance) ** 3
    rows[5] = 0
    found = dictionary.spread(rows)
    five = rows[:5].double().numpy()
    np.testing.assert_allclose(found["kurtosis"][:5], kurtosis(five, axis=1, fisher=False), rtol=1e-4)
    share = np.sort(np.abs(five))[:, -10:].sum(axis=1) / np.abs(five).sum(axis=1)
    np.testing.assert_allclose(found["top10_share"][:5], share, rtol=1e-5)
    assert found["kurtosis"][5] == found["top10_share"][5] == 0


def test_round_trip_ratios_by_hand() -> None:
    encoded = torch.tensor([[2.0, 0.0, 4.0, 2.0], [0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    found = dictionary.round_trip_ratios(torch.tensor([2.0, 5.0, 0.0]), encoded)
    assert found["round_trip_max"].tolist() == [0.5, 1, 0]
    assert found["round_trip_mean"].tolist() == [1, 4, 0]
    assert found["round_trip_square"].tolist() == pytest.approx([4 / 6, 4, 0])
