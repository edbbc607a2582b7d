"""A crosscoder's formulas against brute-force least squares and planted latents, true and false."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sae_tools.metrics.crosscoder import CLASSES, LatentScaling, classify, decoder_cosine, genuine, relative_norm

N, D, D_SAE = 200, 12, 6
DEAD = 5


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def features() -> Tensor:
    """(N, D_SAE) sparse features; one never fires."""
    f = draw(N, D_SAE, seed=0).relu() * (draw(N, D_SAE, seed=1) > 0)
    f[:, DEAD] = 0
    return f


def scaling(f: Tensor, decoders: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], b: float = 0.0) -> LatentScaling:
    """In batches of uneven size."""
    found = LatentScaling(*decoders)
    for part in (slice(0, 1), slice(1, 150), slice(150, N)):
        x_hat = (f[part] @ decoders[0] + b, f[part] @ decoders[1] + b)
        found.add(f[part], (x[0][part], x[1][part]), x_hat)
    return found


def test_a_latent_s_norms_tell_whose_it_is() -> None:
    base = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    finetuned = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 1.0], [2.0, 2.0], [0.0, 0.0]])
    relative = relative_norm(base, finetuned)
    assert relative.tolist() == pytest.approx([1, 0, 0.5, 0.75, 0.5])
    assert [CLASSES[i] for i in classify(relative)] == ["finetuned_only", "base_only", "shared", "between", "shared"]
    assert decoder_cosine(base, finetuned).tolist() == pytest.approx([0, 0, 0, 1, 0])


def test_betas_are_those_of_least_squares(features: Tensor) -> None:
    """Against a general solver, the error of the reconstruction without the latent written out token by token."""
    decoders = draw(D_SAE, D, seed=2), draw(D_SAE, D, seed=3)
    x = draw(N, D, seed=4), draw(N, D, seed=5)
    found = scaling(features, decoders, x, b=0.3)
    betas = found.betas()
    for j in range(D_SAE - 1):
        own = 1 if decoders[1][j].norm() > decoders[0][j].norm() else 0
        regressor = (features[:, j : j + 1] * decoders[own][j]).reshape(-1, 1)
        for model in (0, 1):
            others = features.clone()
            others[:, j] = 0
            targets = {
                "eps": x[model] - (others @ decoders[model] + 0.3),
                "r": features @ decoders[model] + 0.3,
            }
            for name, target in targets.items():
                expected = torch.linalg.lstsq(regressor, target.reshape(-1, 1)).solution.item()
                assert float(betas[name][model, j]) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        for name in ("eps", "r"):
            mine, other = betas[name][own, j], betas[name][1 - own, j]
            expected = float(other / mine) if mine > 0 else 1.0
            assert float(found.nu()[f"nu_{name}"][j]) == pytest.approx(expected)


def test_a_latent_that_never_fires_is_not_called_genuine_and_nothing_is_nan(features: Tensor) -> None:
    decoders = torch.zeros(D_SAE, D), draw(D_SAE, D, seed=3)
    decoders[1][0] = 0
    x = torch.zeros(N, D), features @ decoders[1]
    nu = scaling(features, decoders, x).nu()
    assert all(values.isfinite().all() for values in nu.values())
    verdict = genuine(relative_norm(*decoders), nu)
    assert verdict.tolist() == [False, True, True, True, True, False]


def planted(features: Tensor, base_decoder: Tensor, base_truth: Tensor) -> tuple[float, float, bool]:
    """nu_eps, nu_r and the verdict on latent 0, whose direction in the finetuned model is right."""
    decoder = torch.eye(D)[:D_SAE]
    x = features @ base_truth + 0.01 * draw(N, D, seed=6), features @ decoder + 0.01 * draw(N, D, seed=7)
    nu = scaling(features, (base_decoder, decoder), x).nu()
    verdict = genuine(relative_norm(base_decoder, decoder), nu)
    return float(nu["nu_eps"][0]), float(nu["nu_r"][0]), bool(verdict[0])


def test_a_feature_of_the_finetuned_model_alone_is_genuine(features: Tensor) -> None:
    truth = torch.eye(D)[:D_SAE]
    truth[0] = 0
    nu_eps, nu_r, verdict = planted(features, truth, truth)
    assert abs(nu_eps) < 0.05
    assert abs(nu_r) < 0.05
    assert verdict


def test_a_base_part_that_was_shrunk_away_is_found_out(features: Tensor) -> None:
    truth = torch.eye(D)[:D_SAE]
    shrunk = truth.clone()
    shrunk[0] = 0
    nu_eps, _, verdict = planted(features, shrunk, truth)
    assert nu_eps == pytest.approx(1, abs=0.05)
    assert not verdict


def test_a_base_part_that_another_latent_stands_for_is_found_out(features: Tensor) -> None:
    """Latent 1 fires with latent 0 and holds its direction in the base model."""
    features[:, 1] = features[:, 0]
    truth = torch.eye(D)[:D_SAE]
    decoupled = truth.clone()
    decoupled[0], decoupled[1] = 0, truth[0] + truth[1]
    nu_eps, nu_r, verdict = planted(features, decoupled, truth)
    assert abs(nu_eps) < 0.05
    assert nu_r == pytest.approx(1, abs=0.05)
    assert not verdict


def test_a_feature_of_the_base_model_alone_is_judged_likewise(features: Tensor) -> None:
    decoder = torch.eye(D)[:D_SAE]
    gone = decoder.clone()
    gone[0] = 0
    x = features @ decoder, features @ gone
    nu = scaling(features, (decoder, gone), x).nu()
    assert genuine(relative_norm(decoder, gone), nu).tolist() == [True, *[False] * (D_SAE - 1)]
