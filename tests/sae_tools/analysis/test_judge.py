"""Good and broken texts, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse
from torch import Tensor

from sae_tools.analysis.judge import Measured, loss, own_words, repeated, shown
from sae_tools.analysis.sweep import repeated_bigrams
from sae_tools.analysis.words import Words
from tests.conftest import TinyLM

WORDS = Words(list("abcdef"), np.array([0, 1, 1, 2, 3, 4]), np.array([1, 1, 0.5, 0.8, 0, 1]), np.zeros((6, 2)))
"""Tokens 1 and 2 are one word, 4 is none."""


def test_own_words_are_those_that_it_fires_on() -> None:
    shares = sparse.csr_matrix([[0.5, 0, 0.01, 0.02, 0.47, 0], [0, 0, 0.5, 0, 0, 0.5]])
    own = own_words(shares, WORDS)
    assert own.tolist() == [[True, False, False, False, False], [False, True, False, False, True]]


def test_shown_counts_own_words_as_often_as_they_stand() -> None:
    own = np.array([[True, True, False, True, False]] * 3)
    new = np.array([[0, 0, 1, 2, 3], [4, 3, 5, 3, 5], [1, 0, -1, -1, -1]])
    assert shown(new, own, WORDS).tolist() == [4, 0, 2]


def test_repeated_is_that_of_each_text() -> None:
    rows = [[1, 2, 1, 2, 1, 2], [1, 2, 3, 4, 5, 6], [3, 3, 3, -1, -1, -1], [2, -1, -1, -1, -1, -1], [-1] * 6]
    expected = [repeated_bigrams([token for token in row if token >= 0]) for row in rows]
    assert repeated(np.array(rows)) == pytest.approx(expected)


def test_loss_is_the_mean_over_the_new_tokens(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm = tiny_lm("llama")
    new = torch.stack([ids[0, 6:12], torch.cat([ids[1, 6:9], torch.tensor([-1, -1, -1])]), torch.full((6,), -1)])
    found = loss(lm, ids[:1, :6], new)
    for row, n in enumerate((6, 3)):
        whole = torch.cat([ids[0, :6], new[row, :n]])
        log_p = lm.logits(whole[None])[0].log_softmax(-1)
        expected = -torch.stack([log_p[i - 1, whole[i]] for i in range(6, 6 + n)]).mean()
        assert found[row] == pytest.approx(float(expected), rel=1e-4)
    assert np.isnan(found[2])


def test_a_good_text_shows_its_words_and_is_fluent() -> None:
    plain = Measured(np.array([0, 0, 0, 2, 0, 0, 0]), np.full(7, 2.0), np.zeros(7))
    text = Measured(
        np.array([2, 1, 5, 2, 2, 2, 2]), np.array([3, 2, 3.1, 2, 2, 2, np.nan]), np.array([0, 0, 0, 0, 0.2, 0.3, 0])
    )
    assert text.fluent(plain).tolist() == [True, True, False, True, True, False, False]
    assert text.good(plain).tolist() == [True, False, False, False, True, False, False]
    assert text.more(plain).tolist() == [1, 0.5, 0, 0, 1, 0, 0]
