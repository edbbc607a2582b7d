"""What tokens are as words, on a small text, and the space of words against a dense brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sae_tools.analysis import words as module
from sae_tools.analysis.words import Words, company, read_words, stem, telling
from sae_tools.models.lm import LanguageModel
from tests.conftest import TEXT, TinyLM


@pytest.fixture(scope="module")
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


def test_a_whole_word_starts_has_letters_only_and_ends(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMON", 0)
    ids = torch.tensor([lm.tokenizer(" the fox met the foxy fox's fox.")["input_ids"]])
    found = read_words(lm, ids)
    token = {lm.tokenizer.decode([i]): i for i in ids[0].tolist()}
    goes_on = 2  # foxy and fox's
    starting = sum(lm.tokenizer.decode([i])[0] == " " for i in ids[0].tolist())
    assert found.whole[token[" fox"]] == pytest.approx(1 - (goes_on + goes_on / starting) / (4 + 1))
    assert found.whole[token[" met"]] == pytest.approx(1 - (goes_on / starting) / 2)
    assert found.whole[token["."]] == 0
    assert found.whole[lm.special_ids].max() == 0
    assert found.whole[[i for i, text in enumerate(found.texts) if not text.isalpha()]].max() == 0


def test_the_commonest_tokens_are_no_words(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "COMMON", 3)
    ids = torch.tensor([lm.tokenizer(TEXT)["input_ids"]])
    found = read_words(lm, ids)
    token = lm.tokenizer(" the fox")["input_ids"]
    assert found.whole[token[0]] == 0
    assert found.whole[lm.tokenizer(" river")["input_ids"][0]] > 0


def test_tokens_alike_but_for_case_space_and_s_are_one_word(lm: LanguageModel) -> None:
    assert stem("Dogs") == stem("dog")
    assert stem("s") == "s"
    found = read_words(lm, torch.tensor([lm.tokenizer(TEXT)["input_ids"]]))
    by_stem: dict[str, set[int]] = {}
    for text, word in zip(found.texts, found.word.tolist(), strict=True):
        by_stem.setdefault(stem(text), set()).add(word)
    assert all(len(numbers) == 1 for numbers in by_stem.values())
    assert len(by_stem) == found.n_words


def test_the_space_is_the_svd_of_the_information_of_pairs() -> None:
    chance = np.random.default_rng(0)
    ids = chance.choice(12, (40, 30), p=np.arange(1, 13) / 78)
    chosen = np.arange(12) >= 4
    counts = np.zeros((12, 12))
    for row in ids:
        for i, left in enumerate(row):
            for j, right in enumerate(row):
                counts[left, right] += i != j and abs(i - j) <= module.REACH
    counts = counts[4:, 4:]
    share = counts.sum(1) / counts.sum()
    ppmi = np.log(counts / counts.sum() / np.outer(share, share)).clip(min=0)
    left, values, _ = np.linalg.svd(ppmi)
    expected = left[:, :5] * np.sqrt(values[:5])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    found = company(ids, chosen, dimensions=5)
    assert found[:4].max() == 0
    np.testing.assert_allclose(found[4:] @ found[4:].T, expected @ expected.T, atol=1e-4)


def test_words_of_like_company_are_close() -> None:
    chance = np.random.default_rng(1)
    ids = np.where(
        np.arange(200)[:, None] % 2 == 0, chance.integers(0, 8, (200, 20)), chance.integers(8, 16, (200, 20))
    )
    rows = company(ids, np.ones(16, bool), dimensions=4)
    cosines = rows @ rows.T
    assert cosines[:8, :8].min() > 0.5 > cosines[:8, 8:].max()


def test_what_makes_up_much_of_a_text_tells_nothing() -> None:
    words = Words(list("abc"), np.arange(3), np.array([1.0, 0.5, 1.0]), np.zeros((3, 2)))
    ids = torch.tensor([[0] * 2 + [1] * 998] * 2 + [[2] + [1] * 999])
    assert telling(words, ids).whole.tolist() == [0.0, 0.0, 1.0]
