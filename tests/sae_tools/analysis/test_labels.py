"""Labels against every label that could have been given, and their scores on other text against a loop."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from sae_tools.analysis.contexts import NOTHING, Contexts, Text, largest_sums
from sae_tools.analysis.detection import detect
from sae_tools.analysis.firings import Firings
from sae_tools.analysis.labels import CANDIDATES, MARGIN, MOST_OF_BOTH, MOST_WORDS, Labels, make_labels
from tests.sae_tools.analysis.made import firings_of, random_acts, random_firings, random_text
from tests.sae_tools.analysis.test_contexts import Numbers

D_SAE = 12


def f1_of(fires: np.ndarray, text: Text, on: set[int], after: set[int]) -> float:
    """How well it predicts where a feature fires to say that it does so on some words, or after some, or both."""
    meant = text.is_text.copy()
    if on:
        meant &= np.isin(text.word, list(on))
    if after:
        meant &= np.isin(text.before, list(after))
    return float(2 * (meant & fires).sum() / (meant.sum() + fires.sum()))


def said(row: np.ndarray) -> set[int]:
    return set(row.tolist()) - {NOTHING}


def subsets(words: np.ndarray, most: int) -> list[set[int]]:
    known = sorted(said(words))
    return [set(chosen) for n in range(1, most + 1) for chosen in combinations(known, n)]


Made = tuple[Text, np.ndarray, Firings, Contexts, Labels]


@pytest.fixture(scope="module")
def made() -> Made:
    text = random_text(0)
    acts = random_acts(1, text, D_SAE)
    firings = random_firings(acts)
    contexts = Contexts.of(firings, text)
    return text, acts > 0, firings, contexts, make_labels(firings, text, contexts)


def test_no_other_words_of_a_label_predict_better(made: Made) -> None:
    text, fires, _, contexts, labels = made
    words, befores = largest_sums(contexts.on, CANDIDATES)[0], largest_sums(contexts.before, CANDIDATES)[0]
    forms = set()
    for feature in range(D_SAE):
        on, after, fired = said(labels.on[feature]), said(labels.after[feature]), fires[:, feature]
        if not fired.any():
            assert not on
            assert not after
            continue
        assert labels.f1[feature] == pytest.approx(f1_of(fired, text, on, after))
        best_on = max(f1_of(fired, text, s, set()) for s in subsets(words[feature], MOST_WORDS))
        best_after = max(f1_of(fired, text, set(), s) for s in subsets(befores[feature], MOST_WORDS))
        forms.add((bool(on), bool(after)))
        if on and not after:
            assert labels.f1[feature] == pytest.approx(best_on)
            assert best_on >= best_after - MARGIN - 1e-9
        elif after and not on:
            assert labels.f1[feature] == pytest.approx(best_after)
            assert best_after > best_on + MARGIN
        else:
            assert max(len(on), len(after)) <= MOST_OF_BOTH
            assert labels.f1[feature] > max(best_on + MARGIN, best_after)
            for other in subsets(words[feature], MOST_OF_BOTH):  # the best of each part for the other
                assert f1_of(fired, text, other, after) <= labels.f1[feature] + 1e-9
    assert forms == {(True, False), (False, True), (True, True)}


def label_of(tokens: list[int], word: list[int]) -> str:
    """The label of a feature that fires on these tokens of one block."""
    here = np.array(word, np.int32)
    text = Text(here, np.append(0, here[:-1]), np.append(here[1:], 0), np.ones(len(here), bool), 10)
    firings = firings_of((tokens, [1.0] * len(tokens)), n_tokens=len(word))
    return make_labels(firings, text, Contexts.of(firings, text)).texts(Numbers())[0]  # type: ignore[arg-type]


def test_each_form_is_said_where_it_is_true() -> None:
    word = [1, 2, 3, 2, 4, 1, 5, 3, 6, 4, 3, 1, 6, 2, 6]
    assert label_of([2, 7, 10], word) == "3"
    assert label_of([1, 6, 12], word) == "after “1”"
    assert label_of([1], word) == "“2” after “1”"
    assert label_of([], word) == ""
    assert label_of([0], word) == "1"  # nothing stands before it that could be named


def test_detection_equals_a_loop_over_other_text(made: Made) -> None:
    labels = made[-1]
    text = random_text(7)
    acts = random_acts(1, text, D_SAE)
    acts[:, 5] = 0
    found = detect(labels, random_firings(acts), text)
    for feature, row in found.iterrows():
        on, after, hits, claims = said(labels.on[feature]), said(labels.after[feature]), 0, 0
        for token in range(len(text.word)):
            fits = (text.word[token] in on or not on) and (text.before[token] in after or not after)
            meant = bool(text.is_text[token] and fits and (on or after))
            claims += meant
            hits += meant and acts[token, feature] > 0
        fires = int((acts[:, feature] > 0).sum())
        if not fires:
            assert row.isna().all()
            continue
        assert row["detection_precision"] == pytest.approx(hits / claims)
        assert row["detection_recall"] == pytest.approx(hits / fires)
        assert row["detection"] == pytest.approx(2 * hits / (claims + fires))
    assert {2, 5} <= set(np.flatnonzero(found["detection"].isna()))


def test_a_label_that_says_nothing_or_means_no_token_there_detects_nothing() -> None:
    text = random_text(0, n_words=6)
    labels = Labels(np.array([[0, 0, 0], [9, 0, 0]]), np.zeros((2, 3), int), np.zeros(2))
    text = Text(text.word, text.before, text.after, text.is_text, n_words=10)
    token = int(np.flatnonzero(text.is_text)[0])
    found = detect(labels, firings_of(([token], [1.0]), ([token], [1.0])), text)
    assert found.to_numpy().tolist() == [[0, 0, 0], [0, 0, 0]]
