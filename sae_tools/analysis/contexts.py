"""What stands where a feature fires: the words that it fires on, and those directly before and after.

A word is a token's text, stripped and in lower case; white space is made visible, special tokens are as they are
spelled. Nothing is looked at across the border of a block.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from torch import Tensor

from sae_tools.analysis.examples import cut_at
from sae_tools.analysis.firings import Firings
from sae_tools.models.lm import LanguageModel

N_WORDS, N_AROUND = 10, 5
NOTHING = 0
"""The word that stands before a block's first token and after its last one."""


class Vocabulary:
    """The word of each token that occurs in some texts."""

    def __init__(self, tokenizer: Any, texts: Iterable[Tensor]) -> None:
        tokens = np.unique(np.concatenate([ids.flatten().numpy() for ids in texts]))
        spelled = [_spelled(tokenizer, token) for token in tokens.tolist()]
        words, word = np.unique(np.array(spelled, object), return_inverse=True)
        self.texts = np.concatenate([np.array([""], object), words])
        """(n_words,) each word's text"""
        self.word = np.zeros(int(tokens.max(initial=0)) + 1, np.int32)
        """(largest token + 1,) each token's word"""
        self.word[tokens] = word + 1


def _spelled(tokenizer: Any, token: int) -> str:
    text = tokenizer.decode([token], clean_up_tokenization_spaces=False)
    shown = text.strip().lower() or text.replace("\n", "⏎").replace(" ", "␣")
    return str(shown or tokenizer.convert_ids_to_tokens(token))


@dataclass(frozen=True)
class Text:
    """Blocks of tokens as words, all flattened."""

    word: np.ndarray
    """(n,) each token's word"""
    before: np.ndarray
    """(n,) the word before it in its block, or `NOTHING`"""
    after: np.ndarray
    """(n,) the word after it"""
    is_text: np.ndarray
    """(n,) whether it is no special token: only there can a feature fire"""
    n_words: int

    @classmethod
    def of(cls, lm: LanguageModel, vocabulary: Vocabulary, ids: Tensor) -> Text:
        """From (n_blocks, context) ids whose tokens the vocabulary knows."""
        words = vocabulary.word[ids.numpy()]
        before, after = np.full_like(words, NOTHING), np.full_like(words, NOTHING)
        before[:, 1:], after[:, :-1] = words[:, :-1], words[:, 1:]
        is_text = lm.is_text(ids).numpy()
        return cls(words.ravel(), before.ravel(), after.ravel(), is_text.ravel(), len(vocabulary.texts))

    @cached_property
    def pairs(self) -> csr_array:
        """(n_words, n_words) how often a text token is the second word and the first one stands before it."""
        before, word = self.before[self.is_text], self.word[self.is_text]
        return csr_array((np.ones(len(word), np.int64), (before, word)), shape=(self.n_words, self.n_words))


@dataclass(frozen=True)
class Contexts:
    """What stands where each feature fires, summed up: each (d_sae, n_words)."""

    on: csr_array
    """Activation on each word."""
    before: csr_array
    """Firings directly after each word."""
    after: csr_array
    """Firings directly before each word."""

    @classmethod
    def of(cls, firings: Firings, text: Text) -> Contexts:
        ones = np.ones(len(firings.token), np.int32)
        return cls(
            _sums(firings, text.word, firings.value.astype(np.float64), text.n_words),
            _sums(firings, text.before, ones, text.n_words),
            _sums(firings, text.after, ones, text.n_words),
        )

    def table(self, vocabulary: Vocabulary, firings: Firings) -> pd.DataFrame:
        """Columns words and word_shares (of the summed activation), before, before_shares, after and after_shares (of
        the firings), most first.
        """
        activation = np.asarray(self.on.sum(axis=1)).ravel()
        columns: dict[str, list[np.ndarray]] = {}
        for name, shares, sums, total, n in (
            ("words", "word_shares", self.on, activation, N_WORDS),
            ("before", "before_shares", self.before, firings.count, N_AROUND),
            ("after", "after_shares", self.after, firings.count, N_AROUND),
        ):
            words, values = largest_sums(sums, n)
            kept = words != NOTHING
            offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
            columns[name] = cut_at(vocabulary.texts[words[kept]], offsets)
            columns[shares] = cut_at((values / np.maximum(total, 1e-30)[:, None])[kept], offsets)
        return pd.DataFrame({name: pd.Series(rows, dtype=object) for name, rows in columns.items()})


def _sums(firings: Firings, words: np.ndarray, weights: np.ndarray, n_words: int) -> csr_array:
    """(d_sae, n_words) sums of the firings' weights by feature and by the word at their token, `NOTHING` left out."""
    found = words[firings.token]
    parts = (np.where(found == NOTHING, 0, weights), found, firings.starts.copy())  # they are summed in place
    sums = csr_array(parts, shape=(firings.d_sae, n_words))
    sums.sum_duplicates()
    sums.eliminate_zeros()
    return sums


def largest_sums(sums: csr_array, n: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows, n) columns and values of each row's largest sums, largest first; `NOTHING` and 0 where there are fewer."""
    row = np.repeat(np.arange(sums.shape[0]), np.diff(sums.indptr))
    order = np.lexsort((-sums.data, row))
    place = np.arange(len(row)) - sums.indptr[row]
    kept = place < n
    columns = np.full((sums.shape[0], n), NOTHING, np.int32)
    values = np.zeros((sums.shape[0], n))
    columns[row[kept], place[kept]] = sums.indices[order[kept]]
    values[row[kept], place[kept]] = sums.data[order[kept]]
    return columns, values
