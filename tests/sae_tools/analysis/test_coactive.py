"""Features that fire together, against the correlation of all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from sae_tools.analysis import coactive as module
from sae_tools.analysis.coactive import LEAST, LEAST_PHI, coactive
from tests.sae_tools.analysis.made import firings_of, random_firings

D_SAE = 30


@pytest.fixture(scope="module")
def acts() -> np.ndarray:
    """(tokens, D_SAE) activations of features that share causes; feature 3 is dead."""
    chance = np.random.default_rng(0)
    causes = chance.random((600, 5)) < 0.1
    fires = (causes @ (chance.random((5, D_SAE)) < 0.4)) & (chance.random((600, D_SAE)) < 0.7)
    fires[:, 3] = False
    fires[10, 4:6] = True
    return fires * 1.0


@pytest.mark.parametrize("cells", [1, 7 * D_SAE, module.CELLS])
def test_the_best_are_those_of_the_correlations(acts: np.ndarray, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CELLS", cells)
    table = coactive(random_firings(acts), 4)
    with np.errstate(invalid="ignore"):
        phi = np.nan_to_num(np.corrcoef(acts.T))
    phi[(acts.T @ acts < LEAST) | (phi < LEAST_PHI)] = 0
    np.fill_diagonal(phi, 0)
    for feature, row in table.iterrows():
        best = np.sort(phi[feature])[::-1][:4]
        np.testing.assert_allclose(row["together_scores"], best[best > 0], rtol=1e-6)
        np.testing.assert_allclose(phi[feature][row["together"]], row["together_scores"], rtol=1e-6)
    assert len(table.loc[3, "together"]) == 0


def test_those_that_met_too_seldom_are_no_pair() -> None:
    assert [len(row) for row in coactive(firings_of(([1, 4], [1.0, 1]), ([1, 4], [1.0, 1])))["together"]] == [0, 0]
    assert len(coactive(firings_of(([], []), n_tokens=1))["together"][0]) == 0


def test_of_many_pairs_an_even_part_of_the_tokens_tells_the_same() -> None:
    chance = np.random.default_rng(0)
    both = chance.random(40_000) < 0.2
    acts = np.stack([both, both & (chance.random(len(both)) < 0.5)], axis=1) * 1.0
    whole, part = coactive(random_firings(acts)), coactive(random_firings(acts), most_pairs=4_000)
    exact = np.corrcoef(acts.T)[0, 1]
    assert whole.loc[0, "together_scores"][0] == pytest.approx(exact)
    assert part.loc[0, "together_scores"][0] == pytest.approx(exact, abs=0.05)
    assert part.loc[0, "together_scores"][0] != whole.loc[0, "together_scores"][0]
