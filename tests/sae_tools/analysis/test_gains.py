"""What pushes gain, against one patched pass a latent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from sae_tools.analysis import gains as module
from sae_tools.analysis.gains import Gains, gains, places, steering_scores
from sae_tools.analysis.steering import Push, steer
from sae_tools.analysis.words import Words
from sae_tools.models.lm import LanguageModel
from tests.conftest import TinyLM, random_sae

SITE = "blocks.1.hook_resid_post"
UNIT = 3.0


@pytest.fixture(scope="module")
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


def words(d_vocab: int) -> Words:
    chance = np.random.default_rng(0)
    space = chance.normal(size=(d_vocab, 6)).astype(np.float32)
    space /= np.linalg.norm(space, axis=1, keepdims=True)
    return Words([str(i) for i in range(d_vocab)], np.arange(d_vocab), chance.random(d_vocab), space)


def changes(sae: Any, lm: LanguageModel, ids: Tensor, features: np.ndarray) -> np.ndarray:
    """(features, d_vocab) mean change of probability, a pass a feature."""
    text = lm.is_text(ids)
    before = lm.logits(ids).softmax(-1)[text].mean(0)
    rows = []
    for feature in features.tolist():
        patch = steer(sae, lm.site(SITE), [Push(feature, "add", 0.4)], UNIT)
        rows.append(lm.logits(ids, patch).softmax(-1)[text].mean(0) - before)
    return torch.stack(rows).numpy()


def test_gains_are_those_of_a_pass_a_latent(lm: LanguageModel, ids: Tensor) -> None:
    sae, features, its = random_sae("standard"), np.array([3, *range(20, 60), 7]), words(lm.d_vocab)
    found = gains(sae, lm, lm.site(SITE), ids, UNIT, features, its)
    change = changes(sae, lm, places(ids), features)
    own = change - change.mean(axis=0)  # fewer than SAMPLE: all of them are the sample
    ratio = own / np.sqrt(change.std(axis=0) + 1e-4)
    for row in range(len(features)):
        usual = own[row] / (change.std(axis=0) + 1e-4)
        np.testing.assert_allclose(np.sort(usual[found.tokens[row]])[::-1], np.sort(usual)[::-1][:10], rtol=1e-3)
        np.testing.assert_allclose(found.change[row], change[row, found.tokens[row]], atol=1e-6)
        assert (np.diff(found.change[row]) <= 0).all()
        best = np.sort(ratio[row] * its.whole)[::-1][:10]
        np.testing.assert_allclose((ratio[row] * its.whole)[found.words[row]], best, rtol=1e-3)
        np.testing.assert_allclose(found.by[row], (own[row] * its.whole)[found.words[row]].clip(min=0), atol=1e-6)


def test_the_places_are_beginnings_of_blocks_from_all_over() -> None:
    blocks = torch.arange(900).view(30, 30)
    assert places(blocks)[:, 0].tolist() == [0, 270, 570, 870]
    assert places(blocks).shape == module.PLACES
    assert places(blocks[:2]).tolist() == blocks[:2, : module.PLACES[1]].tolist()


def test_the_score_is_its_formula() -> None:
    its, chance = words(30), np.random.default_rng(1)
    shares = chance.random((4, 30))
    found = Gains(*(np.zeros((4, 10), int),) * 2, chance.integers(0, 30, (4, 10)), chance.random((4, 10)))
    concept = chance.random(4)
    score = steering_scores(found, sparse.csr_matrix(shares), concept, its)
    for row in range(4):
        fired = sum(shares[row, t] * its.whole[t] * its.space[t] for t in range(30))
        gained = sum(by * its.space[t] for t, by in zip(found.words[row], found.by[row], strict=True))
        cross = max(0, fired @ gained / np.linalg.norm(fired) / np.linalg.norm(gained))
        assert score[row] == pytest.approx(found.by[row].sum() * cross**2 * concept[row], rel=1e-4)
