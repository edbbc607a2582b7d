"""The concept score's factors against brute force over every firing."""

from __future__ import annotations

import numpy as np
import pytest

from sae_tools.analysis.concepts import burst, coherence, concept_scores, documents, several, token_shares
from sae_tools.analysis.firings import Firings
from sae_tools.analysis.words import Words

D_VOCAB, D_SAE = 20, 7


def words(seed: int) -> Words:
    chance = np.random.default_rng(seed)
    space = chance.normal(size=(D_VOCAB, 6))
    space /= np.linalg.norm(space, axis=1, keepdims=True)
    space[:3] = 0
    word = np.r_[np.arange(15), np.arange(5)]
    return Words([f"t{i}" for i in range(D_VOCAB)], word, chance.random(D_VOCAB), space.astype(np.float32))


def firings_of(acts: np.ndarray) -> Firings:
    """From (tokens, d_sae) activations."""
    feature, token = np.nonzero(acts.T)
    starts = np.searchsorted(feature, np.arange(acts.shape[1] + 1))
    return Firings(token.astype(np.int32), acts.T[feature, token].astype(np.float32), starts, len(acts))


@pytest.fixture
def ids() -> np.ndarray:
    """(n_blocks, context)"""
    return np.random.default_rng(0).integers(0, D_VOCAB, (60, 25))


@pytest.fixture
def acts(ids: np.ndarray) -> np.ndarray:
    """(tokens, d_sae): 6 never fires, 5 rarely, 4 nearly always, 3 on one token alone."""
    chance = np.random.default_rng(1)
    liked = chance.random((D_VOCAB, D_SAE)) ** 6
    density = np.array([0.3, 0.3, 0.3, 1, 1, 0.01, 0])
    found = chance.random((ids.size, D_SAE)) * (chance.random((ids.size, D_SAE)) < density * liked[ids.ravel()])
    found[:, 3] = ids.ravel() == 9
    found[:, 4] += 0.1
    return found


def test_shares_are_those_of_the_summed_activation(ids: np.ndarray, acts: np.ndarray) -> None:
    shares = token_shares(firings_of(acts), ids.ravel(), D_VOCAB).toarray()
    sums = np.stack([acts[ids.ravel() == token].sum(axis=0) for token in range(D_VOCAB)], axis=1)
    np.testing.assert_allclose(shares, sums / sums.sum(axis=1, keepdims=True).clip(min=1e-9), atol=1e-6)


def test_the_factors_are_their_formulas(ids: np.ndarray, acts: np.ndarray) -> None:
    firings, its = firings_of(acts), words(0)
    document = documents(ids, [7])
    shares = token_shares(firings, ids.ravel(), D_VOCAB)
    g, c, b = several(shares, its), coherence(shares, its.space), burst(firings, document)
    size = np.bincount(document)
    for feature, p in enumerate(shares.toarray()):
        merged = np.array([p[its.word == word].sum() for word in range(its.n_words)])
        entropy = -sum(q * np.log(q) for q in merged if q > 0)
        assert g[feature] == pytest.approx(np.clip((np.exp(entropy) - 1) / 4, 0, 1))
        pairs = [(i, j) for i in range(D_VOCAB) for j in range(D_VOCAB) if i != j]
        apart = sum(p[i] * p[j] for i, j in pairs)
        cosine = sum(p[i] * p[j] * (its.space[i] @ its.space[j]) for i, j in pairs) / apart if apart > 1e-9 else 0
        assert c[feature] == pytest.approx(max(0, cosine), abs=1e-6)
        fired = document[acts[:, feature] > 0]
        together = sum(int(a == other) for n, a in enumerate(fired) for other in fired[n + 1 :])
        expected = len(fired) * (len(fired) - 1) / 2 * ((size / size.sum()) ** 2).sum()
        ratio = np.log(together / expected) if together and expected else 0
        assert b[feature] == pytest.approx(np.clip(ratio, 0, 2.5), abs=1e-6)


def test_a_document_ends_at_a_special_token_and_with_its_block() -> None:
    ids = np.array([[1, 2, 7, 3], [4, 4, 4, 7]])
    assert documents(ids, [7]).tolist() == [0, 0, 1, 1, 2, 2, 2, 3]


def test_the_score_is_their_product_for_what_fires_neither_rarely_nor_always(
    ids: np.ndarray, acts: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_tools.analysis.concepts.FEWEST", 20)
    monkeypatch.setattr("sae_tools.analysis.concepts.DENSEST", 0.5)
    firings = firings_of(acts)
    shares = token_shares(firings, ids.ravel(), D_VOCAB)
    table = concept_scores(firings, documents(ids, [7]), shares, words(0))
    np.testing.assert_allclose(table["whole"], shares.toarray() @ words(0).whole)
    product = table["whole"] * table["several"] * table["coherence"] * table["burst"]
    kept = (firings.count >= 20) & (firings.count <= 0.5 * ids.size)
    assert 0 < kept.sum() < D_SAE
    np.testing.assert_allclose(table["concept"], np.where(kept, product, 0))
