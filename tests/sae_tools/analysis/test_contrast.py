"""The vector is the difference of hidden states, as read by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools.analysis.contrast import Contrast, Positions, contrast
from sae_tools.analysis.pairs import Pair
from sae_tools.common.errors import InputError, SettingError
from sae_tools.models.lm import LanguageModel
from tests.conftest import CONTEXT, TinyLM

SITE = "blocks.1.hook_resid_post"
PAIRS = [
    Pair("the fox likes to sing", "the bear is big"),
    Pair("a fox sang", "an owl asked</s>"),
    Pair("the sun is warm and near", "the river</s> is far"),
]


@pytest.fixture
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("gpt2")  # learned positions: padding in front would show


def hidden(lm: LanguageModel, text: str) -> Tensor:
    """(n, d) after block 1, special tokens left out."""
    ids = lm.tokens(text)
    states: Tensor = lm.model(ids, output_hidden_states=True).hidden_states[2][0]
    return states[[i for i, token in enumerate(ids[0].tolist()) if token > 1]]


@pytest.mark.parametrize("batch_size", [1, 16])
@pytest.mark.parametrize(
    ("positions", "rows"),
    [("last", [-1]), ("all", slice(None)), ([0], [0]), ([-2], [-2]), ([1, -1], [1, -1]), (range(2), [0, 1])],
)
def test_it_is_the_mean_difference_of_hidden_states(
    lm: LanguageModel, positions: Positions, rows: Any, batch_size: int
) -> None:
    found = contrast(PAIRS, lm, lm.site(SITE), positions, batch_size)
    positive = torch.stack([hidden(lm, pair.positive)[rows].mean(dim=0) for pair in PAIRS])
    negative = torch.stack([hidden(lm, pair.negative)[rows].mean(dim=0) for pair in PAIRS])
    torch.testing.assert_close(found.positive, positive, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.negative, negative, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.vector, positive.mean(dim=0) - negative.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert found.norm == pytest.approx(float(found.vector.norm()))


def test_agreement_is_the_share_of_pairs_along_the_vector() -> None:
    positive = torch.tensor([[3.0, 1.0], [2.0, -1.0], [-1.0, 0.0], [1.0, 0.0]])
    found = Contrast(positive, torch.zeros(4, 2))
    assert found.vector.tolist() == [1.25, 0.0]
    assert found.agreement == 0.75


@pytest.mark.parametrize(
    ("pair", "positions", "problem"),
    [
        (Pair("a fox", "</s>"), "last", "the negative text of pair 4, '</s>', holds no token"),
        (Pair("fox " * CONTEXT, "a"), "all", rf"the positive text of pair 4, .* but the model reads at most {CONTEXT}"),
        (
            Pair("a fox sang to the bear", "é"),
            [4],
            "the negative text of pair 4, 'é', has 2 tokens, none .* position 4",
        ),
        (Pair("é", "a fox sang to the bear"), [-3], "the positive text of pair 4, .* position -3; give -2 to 1"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused(
    lm: LanguageModel, pair: Pair, positions: Positions, problem: str
) -> None:
    long = [Pair("the fox likes to sing", "the bear is very big")] * 3
    with pytest.raises(InputError, match=problem):
        contrast([*long, pair], lm, lm.site(SITE), positions)


@pytest.mark.parametrize("positions", ["first", [], [0.5], ["last"], [True]])
def test_other_positions_are_refused(lm: LanguageModel, positions: Any) -> None:
    with pytest.raises(SettingError, match="give 'last', 'all' or a list of whole numbers"):
        contrast(PAIRS, lm, lm.site(SITE), positions)


def test_no_pair_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(InputError, match="no pair of texts was given"):
        contrast([], lm, lm.site(SITE))
