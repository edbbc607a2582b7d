"""Each way finds what was put there, and explains the share that its formula says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.linear_model import OrthogonalMatchingPursuit
from torch import Tensor

from sae_tools.analysis.contrast import Contrast
from sae_tools.analysis.decompose import WAYS, decompose, pursuit, random_like
from sae_tools.common.errors import InputError, SettingError
from tests.conftest import ARCHITECTURES, random_sae

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")


@pytest.fixture
def found() -> Contrast:
    chance = torch.Generator().manual_seed(3)
    negative = torch.randn(6, 32, generator=chance)
    return Contrast(negative + 0.5 * torch.randn(32, generator=chance), negative)


def orthogonal_sae() -> Any:
    """A ReLU SAE whose 32 decoder rows are orthogonal, of lengths 1 to 2, read by their own transpose; no biases."""
    sae = random_sae("standard", d_sae=32)
    rows = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0))).Q
    lengths = torch.linspace(1, 2, 32)[:, None]
    with torch.no_grad():
        sae.W_dec.copy_(rows * lengths)
        sae.W_enc.copy_((rows / lengths).T)
        sae.b_enc.zero_()
        sae.b_dec.zero_()
    return sae


def test_planted_latents_are_found_with_their_signs() -> None:
    sae = orthogonal_sae()
    rows = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=-1, keepdim=True)
    base = rows[20] + 4 * rows[9] + torch.zeros(5, 32)
    vector = 3 * rows[5] - 2 * rows[9]
    seen = decompose(Contrast(base + vector, base), sae, k=4)
    # Only v's own latents come out of the pursuit, which then has nothing left; all ways measure along unit rows.
    assert seen.tables["pursuit"]["coefficient"].to_dict() == pytest.approx({5: 3, 9: -2}, abs=1e-4)
    for way in ("difference", "projections"):
        assert seen.tables[way]["coefficient"].head(2).to_dict() == pytest.approx({5: 3, 9: -2}, abs=1e-4)  # type: ignore[index]
        assert seen.tables[way]["coefficient"].tolist()[2:] == pytest.approx([0, 0], abs=1e-4)  # type: ignore[index]
    assert seen.tables["difference"].loc[9].tolist() == pytest.approx([-2, 2, 4], abs=1e-4)
    # encode(v) can't show what v lowers: 9 of the 13 of ‖v‖² are left.
    assert seen.tables["encoded"]["coefficient"].to_dict()[5] == pytest.approx(3, abs=1e-4)
    assert abs(seen.tables["encoded"]["coefficient"].to_dict().get(9, 0)) < 1e-4
    shares = {way: seen.explained(way) for way in WAYS}
    assert shares == pytest.approx({"encoded": 9 / 13, "difference": 1, "pursuit": 1, "projections": 1}, abs=1e-4)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_reconstructions_and_shares_by_their_formulas(found: Contrast, architecture: str, normalisation: str) -> None:
    sae = random_sae(architecture, normalize_activations=normalisation)
    seen = decompose(found, sae, k=5)

    def output(x: Tensor) -> Tensor:
        return sae.decode(sae.encode(x)).detach()  # type: ignore[no-any-return]

    v = found.vector
    # Zeros have no length to normalise by: the SAE then gives nothing.
    zero = output(torch.zeros(1, 32))[0] if normalisation != "constant_norm_rescale" else torch.zeros(32)
    atoms = sae.W_dec.detach()[seen.tables["projections"].index.tolist()].T
    expected = {
        "encoded": output(v[None])[0] - zero,
        "difference": (output(found.positive) - output(found.negative)).mean(dim=0),
        "pursuit": _in_span(sae, seen.tables["pursuit"].index.tolist(), v),
        "projections": atoms @ torch.linalg.lstsq(atoms, v[:, None]).solution[:, 0],
    }
    for way in WAYS:
        torch.testing.assert_close(seen.reconstruction(way), expected[way], rtol=1e-3, atol=1e-4)
        share = 1 - float((v - expected[way]).norm() / v.norm()) ** 2
        assert seen.explained(way) == pytest.approx(share, rel=1e-3, abs=1e-3)
    assert len(seen.tables["projections"]) == 5
    assert seen.explained("pursuit") >= seen.explained("projections") - 1e-5


def _in_span(sae: Any, latents: list[int], v: Tensor) -> Tensor:
    atoms = sae.W_dec.detach()[latents].T
    return atoms @ torch.linalg.lstsq(atoms, v[:, None]).solution[:, 0]


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_coefficients_are_lengths_that_add_up(found: Contrast, architecture: str, normalisation: str) -> None:
    """Of all latents, each times its unit direction: the reconstruction, but for the bias where it does not cancel."""
    sae = random_sae(architecture, normalize_activations=normalisation)
    seen = decompose(found, sae, k=64)
    rows = sae.W_dec.detach() / sae.W_dec.detach().norm(dim=-1, keepdim=True)
    for way in WAYS:
        table = seen.tables[way]
        assert table["coefficient"].abs().is_monotonic_decreasing
        summed = torch.tensor(table["coefficient"].to_numpy()) @ rows[table.index.tolist()]
        if way == "projections":
            projected = rows[table.index.tolist()] @ found.vector
            torch.testing.assert_close(torch.tensor(table["coefficient"].to_numpy()), projected, rtol=1e-4, atol=1e-5)
        elif way == "pursuit" or normalisation == "none":
            torch.testing.assert_close(summed, seen.reconstruction(way), rtol=1e-3, atol=1e-3)
        elif way == "difference":
            extra = _offset(sae, found.positive) - _offset(sae, found.negative)
            torch.testing.assert_close(summed + extra, seen.reconstruction(way), rtol=1e-3, atol=1e-3)


def _offset(sae: Any, x: Tensor) -> Tensor:
    """What the output is without latents, on average over (n, d) activations."""
    found: Tensor = sae.decode(torch.zeros_like(sae.encode(x))).detach().mean(dim=0)
    return found


@pytest.mark.parametrize("k", [1, 4, 12])
def test_pursuit_equals_scikit_learn_s(k: int) -> None:
    chance = torch.Generator().manual_seed(k)
    sae = random_sae("standard")
    vector = torch.randn(32, generator=chance)
    chosen, coefficients = pursuit(sae, vector, k)
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=-1)
    theirs = OrthogonalMatchingPursuit(n_nonzero_coefs=k, fit_intercept=False)
    theirs.fit(rows.T.double().numpy(), vector.double().numpy())
    mine = torch.zeros(64)
    mine[chosen] = coefficients
    torch.testing.assert_close(mine, torch.from_numpy(theirs.coef_).float(), rtol=1e-4, atol=1e-4)
    assert len(chosen) == k


def test_the_first_of_the_pursuit_is_the_best_single_one_by_brute_force() -> None:
    sae = random_sae("standard")
    vector = torch.randn(32, generator=torch.Generator().manual_seed(1))
    rows = torch.nn.functional.normalize(sae.W_dec.detach(), dim=-1)
    left = [float((vector - (vector @ row) * row).norm()) for row in rows]
    assert pursuit(sae, vector, 1)[0] == [left.index(min(left))]


def test_more_atoms_than_the_vector_needs_are_not_taken() -> None:
    sae = random_sae("standard")
    row = sae.W_dec[7].detach()
    chosen, coefficients = pursuit(sae, -2 * row, 50)
    assert chosen == [7]
    assert coefficients.tolist() == pytest.approx([-2 * float(row.norm())])
    # No more than there are dimensions either.
    assert len(pursuit(sae, torch.randn(32, generator=torch.Generator().manual_seed(0)), 1000)[0]) <= 32


def test_a_random_vector_of_equal_norm() -> None:
    vector = torch.randn(512, generator=torch.Generator().manual_seed(0)) * 3
    one, again, other = (random_like(vector, seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert float(one.norm()) == pytest.approx(float(vector.norm()))
    assert abs(float(torch.cosine_similarity(one, vector, dim=0))) < 0.2
    assert abs(float(torch.cosine_similarity(one, other, dim=0))) < 0.2


def test_what_cannot_be_decomposed_is_refused(found: Contrast) -> None:
    with pytest.raises(InputError, match="reads activations of width 16, but at the contrast's site they have 32"):
        decompose(found, random_sae("standard", d_in=16))
    with pytest.raises(SettingError, match="k is 0; give 1 at least"):
        decompose(found, random_sae("standard"), k=0)
    with pytest.raises(SettingError, match="nothing to decompose"):
        decompose(Contrast(found.positive, found.positive), random_sae("standard"))
