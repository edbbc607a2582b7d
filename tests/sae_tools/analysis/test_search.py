"""Searching features: each way against a plain loop over the table, and the order that was asked for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from transformers import PreTrainedTokenizerFast

from sae_tools.analysis.search import Entries, Finder, Wanted, spellings

WORDS = ("dog", "cat", "dogma", "rain", "wind", "Ärger", "the", "red")


def store(n: int, seed: int = 0, columns: tuple[str, ...] = ()) -> Any:
    """Random features; every tenth one is dead."""
    rng = np.random.default_rng(seed)
    picked = [rng.choice(len(WORDS), rng.integers(1, 4), replace=False) for _ in range(n)]
    alive = np.arange(n) % 10 != 9
    table = pd.DataFrame(
        {
            "label": [" · ".join(WORDS[i] for i in some) for some in picked],
            "density": np.where(alive, rng.uniform(0, 0.2, n), 0),
            "maximum": np.where(alive, rng.uniform(1, 9, n), 0),
            "concept": np.where(rng.uniform(size=n) < 0.3, np.nan, rng.uniform(0, 1, n)),
            "words": [[WORDS[i].lower() for i in rng.permutation(len(WORDS))[:3]] for _ in range(n)],
            "word_shares": [np.sort(rng.uniform(0.01, 0.3, 3))[::-1].tolist() for _ in range(n)],
            "gained_tokens": [rng.choice(40, 5, replace=False).tolist() for _ in range(n)],
            "gained": [rng.uniform(0.001, 0.2, 5).tolist() for _ in range(n)],
        }
    ).rename_axis("feature")
    return of(table[[c for c in table if not columns or c in columns]])


def of(table: pd.DataFrame) -> Any:
    """A store as far as a search reads one."""
    return SimpleNamespace(table=table, column=lambda name: pa.array(table[name]) if name in table else None)


def spelled(word: str) -> list[int]:
    return {"dog": [3, 7], "red": [11]}.get(word, [])


def slowly(table: pd.DataFrame, word: str, where: str) -> dict[int, tuple[bool, float, float]]:
    """By feature: whether its label has the word, the share of the word, the gain of its tokens."""
    found = {}
    for feature, row in table[table["maximum"] > 0].iterrows():
        label = word in row["label"].lower()
        fires = dict(zip(row["words"], row["word_shares"], strict=True)).get(word, 0.0)
        gains = dict(zip(row["gained_tokens"], row["gained"], strict=True))
        promotes = max((gains.get(token, 0.0) for token in spelled(word)), default=0.0)
        ways = {"label": label, "fires": fires, "promotes": promotes}
        if any(ways.values()) if where == "anywhere" else ways[where]:
            found[feature] = (label, fires, promotes)
    return found


@pytest.mark.parametrize("where", ["anywhere", "label", "fires", "promotes"])
@pytest.mark.parametrize("text", ["dog", "RED", "ärger"])
def test_each_way_finds_what_a_loop_finds(where: Any, text: str) -> None:
    features = store(300)
    found = Finder(features).find(Wanted(text, where), spelled)
    expected = slowly(features.table, text.lower(), where)
    assert set(found.index) == set(expected)
    for feature, row in found.iterrows():
        label, fires, promotes = expected[feature]
        if where in ("anywhere", "label"):
            assert row["label"] == label
        if where in ("anywhere", "fires"):
            assert row["fires"] == pytest.approx(fires)
        if where in ("anywhere", "promotes"):
            assert row["promotes"] == pytest.approx(promotes)


def test_the_best_match_comes_first() -> None:
    finder = Finder(store(300))
    assert finder.find(Wanted("rain", "fires"), spelled)["fires"].is_monotonic_decreasing
    assert finder.find(Wanted("dog", "promotes"), spelled)["promotes"].is_monotonic_decreasing
    labels = finder.table["label"][finder.find(Wanted("dog", "label"), spelled).index]
    alone = ["dog" in label.split(" · ") for label in labels]
    assert alone == sorted(alone, reverse=True)
    assert not all(alone)


def test_every_word_must_be_met() -> None:
    finder = Finder(store(300))
    both = finder.find(Wanted("dog rain", "fires"), spelled)
    one, other = (set(finder.find(Wanted(word, "fires"), spelled).index) for word in ("dog", "rain"))
    assert set(both.index) == one & other
    assert len(both) > 0


def test_ranges_and_order() -> None:
    finder = Finder(store(300))
    found = finder.find(Wanted(least={"concept": 0.5}, most={"density": 0.1}, sort="concept"), spelled)
    table = finder.table
    alive = table["maximum"] > 0
    assert set(found.index) == set(table.index[alive & (table["concept"] >= 0.5) & (table["density"] <= 0.1)])
    assert table["concept"][found.index].is_monotonic_decreasing
    rising = finder.find(Wanted(sort="density", rising=True), spelled)
    assert len(rising) == alive.sum()
    assert table["density"][rising.index].is_monotonic_increasing
    unknown = table["concept"][finder.find(Wanted(sort="concept"), spelled).index].isna()
    assert unknown.is_monotonic_increasing  # features without a score come last
    assert unknown.any()


def test_tables_of_an_older_run_are_searched_by_label() -> None:
    finder = Finder(store(50, columns=("label", "density", "maximum")))
    assert finder.fires is None
    assert finder.promotes is None
    assert len(finder.find(Wanted("dog"), spelled)) > 0
    assert len(finder.find(Wanted("dog", "fires"), spelled)) == 0


def test_lists_in_several_pieces_are_read_as_one() -> None:
    words, shares = [["a", "b"], [], ["b"], None, ["c", "a"]], [[0.5, 0.2], [], [0.3], None, [0.4, 0.1]]
    pieces = [pa.chunked_array([pa.array(part[:2]), pa.array(part[2:])]) for part in (words, shares)]
    entries = Entries.of(*pieces)
    np.testing.assert_allclose(entries.weights(["a"], 5), [0.5, 0, 0, 0, 0.1])
    np.testing.assert_allclose(entries.weights(["b", "c"], 5), [0.2, 0, 0.3, 0, 0.4])
    np.testing.assert_allclose(entries.weights([], 5), 0)


def test_a_hundred_thousand_features_take_well_under_a_second() -> None:
    table = pd.concat([store(1_000).table] * 100, ignore_index=True).rename_axis("feature")
    finder = Finder(of(table))
    finder.find(Wanted("dog"), spelled)
    start = time.perf_counter()
    found = finder.find(Wanted("dog r", least={"density": 0.001}), spelled)
    assert time.perf_counter() - start < 1
    assert len(found) > 1000


def test_spellings_are_the_tokens_of_a_word(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = spellings(tokenizer, "fox")
    assert ids
    assert {tokenizer.decode([i]).strip().lower() for i in ids} == {"fox"}
    assert spellings(tokenizer, "foxbearfoxbear") == []
