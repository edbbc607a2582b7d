"""Rounds of texts: who goes on, which strength is chosen, and texts that equal those of one row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor

from sae_tools.analysis import judge
from sae_tools.analysis.calibrate import ROUNDS, Trials, calibrate, summary
from sae_tools.analysis.steering import Push, steer
from sae_tools.analysis.words import Words
from sae_tools.common.settings import Features
from tests.conftest import TinyLM, random_sae

CONFIG = Features(strengths=(0.3, 0.4, 0.8), prompts=("the fox", "a bear"), new_tokens=8, temperature=0.9)


class Known:
    """Trials in which feature f does well in proportion to f, best at 0.8."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[int], list[float], list[int]]] = []

    def run(
        self, features: np.ndarray, own: np.ndarray, strengths: Sequence[float], seeds: Sequence[int]
    ) -> np.ndarray:
        self.calls.append((features.tolist(), list(strengths), list(seeds)))
        good = np.outer(features, np.array(strengths) * 10).astype(int)
        return np.stack([good, good, good])


def test_most_texts_go_to_the_best_and_no_seed_is_used_twice() -> None:
    trials, features = Known(), np.arange(40)
    table = calibrate(cast(Trials, trials), features, np.zeros((40, 3), bool), CONFIG)
    (first, second, third) = trials.calls
    assert first[0] == features.tolist()
    assert first[1] == [0.4]
    assert second[1] == third[1] == [0.3, 0.4, 0.8]
    assert sorted(third[0]) == [38, 39]
    seeds = [seed for call in trials.calls for seed in call[2]]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 100
    assert table.loc[39, "strength"] == 0.8
    assert table.loc[39, "texts"] == 2 * (ROUNDS[1].seeds + ROUNDS[2].seeds)
    assert table.loc[1, ["strength", "texts"]].tolist() == [0.4, 2 * ROUNDS[0].seeds]


def test_no_feature_is_no_row() -> None:
    assert not len(calibrate(cast(Trials, Known()), np.arange(0), np.zeros((0, 3), bool), CONFIG))


def test_the_strength_is_the_least_of_the_best_and_its_range_stays_fluent() -> None:
    more = np.array([[1, 4, 4, 5], [0, 0, 0, 0], [0, 3, 0, 0]])
    good = np.array([[1, 3, 4, 5], [0, 0, 0, 0], [0, 2, 0, 0]])
    fluent = np.array([[9, 8, 8, 7], [2, 2, 1, 0], [0, 4, 0, 0]])
    written = np.array([[10, 10, 10, 10], [10, 10, 10, 10], [0, 4, 0, 0]])
    table = summary(np.array([5, 9, 2]), np.array([0.3, 0.4, 0.5, 0.6]), more, good, fluent, written)
    assert table["strength"].tolist() == [0.4, 0.3, 0.4]
    assert table["shown"].tolist() == [0.4, 0, 0.75]
    assert table["good_share"].tolist() == [0.3, 0, 0.5]
    assert table["texts"].tolist() == [10, 10, 4]
    np.testing.assert_array_equal(table["strength_low"], [0.4, np.nan, 0.4])
    np.testing.assert_array_equal(table["strength_high"], [0.5, np.nan, 0.4])


def test_a_run_judges_the_texts_that_one_row_alone_would_give(tiny_lm: TinyLM, ids: Tensor) -> None:
    lm, sae = tiny_lm("llama"), random_sae("topk")
    site, chance = lm.site("blocks.1.hook_resid_post"), np.random.default_rng(0)
    words = Words([""] * lm.d_vocab, np.arange(lm.d_vocab), np.ones(lm.d_vocab), np.zeros((lm.d_vocab, 2)))
    features, own = np.array([4, 30]), chance.random((2, lm.d_vocab)) < 0.5
    found = Trials(sae, lm, site, 5.0, words, CONFIG).run(features, own, (0.3, 0.8), [100, 101])
    expected = np.zeros((3, 2, 2))
    for i, feature in enumerate(features.tolist()):
        for j, strength in enumerate((0.3, 0.8)):
            for prompt in CONFIG.prompts:
                for seed in (100, 101):
                    start = lm.tokens(prompt)
                    patch = steer(sae, site, [Push(feature, "add", strength)], 5.0)
                    steered, plain = (
                        judge.measure(
                            lm, start, torch.tensor([[*lm.generate(start, 8, 0.9, seed, each)]]), own[[i]], words
                        )
                        for each in (patch, None)
                    )
                    expected[:, i, j] += [each(plain)[0] for each in (steered.more, steered.good, steered.fluent)]
    assert found.tolist() == expected.tolist()
    assert 0 < found[1].sum() < 16
