"""What stands where features fire, against a count by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from sae_tools.analysis.contexts import Contexts, Text, Vocabulary, largest_sums
from sae_tools.models.lm import LanguageModel
from tests.conftest import TinyLM
from tests.sae_tools.analysis.made import firings_of, random_acts, random_firings, random_text


@pytest.fixture(scope="module")
def lm(tiny_lm: TinyLM) -> LanguageModel:
    return tiny_lm("llama")


class Numbers:
    """A vocabulary whose words are their numbers."""

    texts = np.array(["", *map(str, range(1, 100))], object)


def test_a_word_is_a_token_s_text_without_case_and_with_its_white_space_shown(lm: LanguageModel) -> None:
    def token(text: str) -> int:
        return int(lm.tokenizer.encode(text, add_special_tokens=False)[0])

    ids = torch.tensor([[0, token("T"), token("t"), token("\n"), token(" ")]])
    vocabulary = Vocabulary(lm.tokenizer, [ids[:, :2], ids[:, 2:]])
    assert vocabulary.texts[vocabulary.word[ids[0].numpy()]].tolist() == ["<s>", "t", "t", "⏎", "␣"]
    assert len(vocabulary.texts) == 5  # one of them is that of no token


def test_neighbours_stay_inside_their_block(lm: LanguageModel) -> None:
    ids = torch.tensor([[0, 70, 71], [72, 1, 73]])
    vocabulary = Vocabulary(lm.tokenizer, [ids])
    text = Text.of(lm, vocabulary, ids)
    shown = [vocabulary.texts[part].tolist() for part in (text.word, text.before, text.after)]
    words = shown[0]
    assert shown[1] == ["", words[0], words[1], "", words[3], words[4]]
    assert shown[2] == [words[1], words[2], "", words[4], words[5], ""]
    assert text.is_text.tolist() == [False, True, True, True, False, True]
    assert text.pairs.sum() == 4  # of the 4 text tokens, one after nothing
    assert text.pairs[0].sum() == 1


def test_words_and_shares_equal_a_count(lm: LanguageModel) -> None:
    text = random_text(0)
    acts = random_acts(1, text, 8)
    firings = random_firings(acts)
    starts, tokens = firings.starts.copy(), firings.token.copy()
    table = Contexts.of(firings, text).table(Numbers(), firings)  # type: ignore[arg-type]
    assert (firings.starts == starts).all()
    assert (firings.token == tokens).all()
    for feature in range(8):
        fired = np.flatnonzero(acts[:, feature])
        for name, found, weights, n in (
            ("word", text.word, acts[:, feature], 10),
            ("before", text.before, acts[:, feature] > 0, 5),
            ("after", text.after, acts[:, feature] > 0, 5),
        ):
            count: Counter[str] = Counter()
            for token in fired:
                count[str(found[token])] += float(weights[token])
            total = sum(count.values())
            del count["0"]
            shares = table.loc[feature, f"{name}_shares"]
            named = table.loc[feature, "words" if name == "word" else name]
            assert len(named) == len(shares) == len(set(named)) == min(n, len(count))
            np.testing.assert_allclose(shares, sorted((v / total for v in count.values()), reverse=True)[:n], rtol=1e-5)
            np.testing.assert_allclose(shares, [count[word] / total for word in named], rtol=1e-5)


def test_of_equal_sums_the_first_word_comes_first_and_a_silent_feature_has_none() -> None:
    text = Text(*(np.array(part) for part in ([3, 2, 1], [0, 3, 2], [2, 1, 0], [True] * 3)), n_words=4)  # type: ignore[arg-type]
    contexts = Contexts.of(firings_of(([], []), ([0, 1, 2], [1.0, 1, 2])), text)
    words, values = largest_sums(contexts.on, 4)
    assert words.tolist() == [[0, 0, 0, 0], [1, 2, 3, 0]]
    assert values.tolist() == [[0, 0, 0, 0], [2, 1, 1, 0]]
    assert largest_sums(contexts.before, 1)[0].tolist() == [[0], [2]]
