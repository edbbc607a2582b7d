"""Activations and features of two models, by closed forms, numpy, and the study's published numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_tools.metrics.alignment import LinearCKA, is_outlier, norm_scale, similarity
from sae_tools.metrics.paired import Paired


@pytest.fixture
def chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def cka(x: torch.Tensor, y: torch.Tensor) -> float:
    found = LinearCKA(x.shape[1])
    for part in zip(torch.split(x, 130), torch.split(y, 130), strict=True):
        found.add(*part)
    return found.value()


def test_cka_equals_its_kernel_form_and_does_not_see_rotations(chance: torch.Generator) -> None:
    x = torch.randn(500, 12, generator=chance) @ torch.randn(12, 12, generator=chance) + 3
    y = x + 2 * torch.randn(500, 12, generator=chance)
    centre = np.eye(500) - 1 / 500
    K, L = (centre @ (t.double().numpy() @ t.double().numpy().T) @ centre for t in (x, y))
    assert cka(x, y) == pytest.approx((K * L).sum() / np.sqrt((K * K).sum() * (L * L).sum()), rel=1e-6)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=chance)).Q
    assert cka(x, 5 * x @ rotation - 7) == pytest.approx(1, rel=1e-5)
    assert cka(x, torch.ones_like(x)) == 0
    assert LinearCKA(12).value() == 0


def test_similarity_by_hand() -> None:
    found = similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0]]))
    expected = {"cosine": 24 / 25, "distance": 2**0.5, "norm_ratio": 1.0}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    ("d", "mean_norm", "scale", "raw"),
    [(2048, 144.66, 0.3128, 289), (768, 102.1, 0.2714, 204), (4096, 4.513, 14.18, 9.03)],
    ids=["gemma-2b", "gpt2", "mistral-7b"],
)
def test_scales_and_limits_are_those_that_the_study_published(
    d: int, mean_norm: float, scale: float, raw: float
) -> None:
    assert norm_scale(mean_norm, d) == pytest.approx(scale, rel=1e-3)
    norms = torch.tensor([0.998 * raw, 1.002 * raw])
    assert is_outlier(norms, mean_norm).tolist() == [False, True]
    scaled = norm_scale(mean_norm, d) * norms > 2 * d**0.5  # the study's way to say it
    assert scaled.tolist() == [False, True]


def test_gpt2_s_outliers_are_the_first_token_of_each_context() -> None:
    norms = torch.full((20, 128), 79.0)
    norms[:, 0] = 3026
    mask = is_outlier(norms, float(norms.mean()))
    assert mask.float().mean().item() == 0.0078125
    assert mask[:, 0].all()
    assert is_outlier(norms, float(norms.mean()), limit=200).equal(mask)
    assert not is_outlier(norms, float(norms.mean()), limit=4000).any()


def paired(f: torch.Tensor, g: torch.Tensor) -> Paired:
    found = Paired(f.shape[1])
    for part in zip(torch.split(f, 130), torch.split(g, 130), strict=True):
        found.add(*part)
    return found


def test_paired_features_equal_numpy_s(chance: torch.Generator) -> None:
    f = torch.randn(500, 6, generator=chance).relu()
    g = (f + 0.5 * torch.randn(500, 6, generator=chance)).relu()
    f[:, 1], g[:, 2], g[:, 3] = 0, 0, f[:, 3]
    f[:, 4] = g[:, 4] = 0
    found = paired(f, g)
    a, b = f.double().numpy(), g.double().numpy()
    for i in (0, 3, 5):
        assert found.correlation()[i] == pytest.approx(np.corrcoef(a[:, i], b[:, i])[0, 1], rel=1e-9)
    assert found.correlation()[[1, 2, 4]].isnan().all()
    np.testing.assert_allclose(found.density()[1], (b > 0).mean(axis=0))
    np.testing.assert_allclose(found.mean()[0][0], a[:, 0][a[:, 0] > 0].mean())
    np.testing.assert_allclose(found.difference(), np.abs(a - b).mean(axis=0), atol=1e-12)
    most = np.maximum(a, b).sum(axis=0)
    np.testing.assert_allclose(found.overlap(), np.minimum(a, b).sum(axis=0) / np.where(most > 0, most, 1), atol=1e-9)
    logs = np.abs(np.log10(a + 1e-10) - np.log10(b + 1e-10)).mean(axis=0)
    np.testing.assert_allclose(found.log_error()[[1, 2, 4]], logs[[1, 2, 4]], rtol=1e-9)
    assert found.log_error()[[0, 3, 5]].isnan().all()  # they fire in both


def test_correlation_does_not_depend_on_units_or_rarity(chance: torch.Generator) -> None:
    f = torch.rand(20_000, 2, generator=chance, dtype=torch.float64)
    f[5:, 0] = 0  # fires on 5 tokens of 20,000
    g = 0.5 * f
    g[:3, 0] = torch.tensor([0.3, 0.1, 0.8])
    for scale in (1.0, 1e-3, 1e3):
        expected = [np.corrcoef(f[:, i], g[:, i])[0, 1] for i in range(2)]
        np.testing.assert_allclose(paired(f * scale, g * scale).correlation(), expected, rtol=1e-6)


def test_correlation_of_a_constant_is_nan() -> None:
    found = paired(torch.tensor([[0.0, 1, 0], [0, 2, 1]]), torch.tensor([[1.0, 5, 0], [2, 5, 1]]))
    assert found.correlation().isnan().tolist() == [True, True, False]
