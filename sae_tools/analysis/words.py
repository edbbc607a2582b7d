"""What the tokens of a vocabulary are as words, read from a tokenizer and a text: no list of any language's words.

A token counts as a whole word as far as it starts one, holds letters only and is not continued by the token after it;
the commonest tokens of the text (articles, pronouns, stops) count as none, since they say nothing of a subject.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.utils.extmath import randomized_svd
from torch import Tensor

from sae_tools.models.lm import LanguageModel

COMMON = 120
"""Commonest tokens of the text, which count as no word."""
RARE = 0.001
"""Share of the text from which on a word tells nothing: `like`, `see` and `then` come up whatever is pushed."""
REACH = 10
"""Tokens to either side with which a word counts as standing together."""
LEAST = 5
"""Times that a word must stand in the text to have a place in the space of words."""
DIMENSIONS = 64
STARTS = ("Ġ", "▁", " ")
"""How tokenizers mark the space before a token that starts a word."""
APOSTROPHES = ("'", "’")


@dataclass(frozen=True)
class Words:
    """The words of a vocabulary."""

    texts: list[str]
    """(d_vocab,) each token's text, stripped"""
    word: np.ndarray
    """(d_vocab,) which word each token stands for: equal for tokens alike but for case, space and a final s"""
    whole: np.ndarray
    """(d_vocab,) how far each token is a whole, uncommon word: 0 to 1"""
    space: np.ndarray
    """(d_vocab, DIMENSIONS) float32 unit rows, close where words stand in like company; 0 for what is no word"""

    @property
    def n_words(self) -> int:
        return int(self.word.max()) + 1


def read_words(lm: LanguageModel, ids: Tensor) -> Words:
    """The words of a model's vocabulary, as (n_blocks, context) ids of text show them."""
    texts, starts = _texts(lm)
    tokens = ids.numpy()
    count = np.bincount(tokens.flatten(), minlength=len(texts))
    letters = np.array([text.isalpha() for text in texts])
    whole = np.where(starts & letters, 1 - _continued(tokens, texts, starts, count), 0.0)
    whole[lm.special_ids] = 0
    whole[np.argsort(-count, kind="stable")[:COMMON]] = 0
    return Words(texts, _numbers(texts), whole, company(tokens, np.where(count >= LEAST, whole, 0) > 0.5, DIMENSIONS))


def telling(words: Words, ids: Tensor) -> Words:
    """The words of a text, those that make up more than `RARE` of its (n_blocks, context) ids taken for none."""
    count = np.bincount(ids.numpy().flatten(), minlength=len(words.texts))
    return replace(words, whole=np.where(count <= RARE * ids.numel(), words.whole, 0))


def stem(text: str) -> str:
    """What two forms of a word have in common: lower-case, without a final s."""
    return text.lower().removesuffix("s") or text.lower()


def company(ids: np.ndarray, chosen: np.ndarray, dimensions: int) -> np.ndarray:
    """(d_vocab, dimensions) unit rows for `chosen` tokens of (n_blocks, context) ids, 0 for the others.

    Fewer dimensions are used where there are fewer tokens.

    The left singular vectors, times the roots of their values, of the positive pointwise mutual information
    max(0, ln(p(s, t) / p(s) p(t))) of tokens at most REACH apart (Levy and Goldberg 2014,
    https://proceedings.neurips.cc/paper/2014/hash/feab05aa91085b7a8012516bc3533958-Abstract.html).
    """
    rows = np.zeros((len(chosen), dimensions), np.float32)
    size = int(chosen.sum())
    if size < 2:
        return rows
    number = np.where(chosen, np.cumsum(chosen) - 1, -1)[ids]
    pairs = sparse.csr_matrix((size, size))
    for step in range(1, min(REACH, ids.shape[1] - 1) + 1):
        left, right = number[:, :-step].ravel(), number[:, step:].ravel()
        both = (left >= 0) & (right >= 0)
        pairs += sparse.csr_matrix((np.ones(both.sum()), (left[both], right[both])), (size, size))
    pairs = (pairs + pairs.T).tocoo()
    share = np.asarray(pairs.sum(axis=1)).ravel() / max(pairs.data.sum(), 1)
    expected = share[pairs.row] * share[pairs.col] * pairs.data.sum()
    information = np.log(pairs.data / expected).clip(min=0)
    ppmi = sparse.csr_matrix((information, (pairs.row, pairs.col)), (size, size))
    vectors, values, _ = randomized_svd(ppmi, min(dimensions, size - 1), random_state=0)
    found = vectors * np.sqrt(values)
    rows[chosen, : len(values)] = found / np.linalg.norm(found, axis=1, keepdims=True).clip(min=1e-9)
    return rows


def _texts(lm: LanguageModel) -> tuple[list[str], np.ndarray]:
    """Each token's text, stripped, and whether it starts a word."""
    tokenizer: Any = lm.tokenizer
    raw = [piece or "" for piece in tokenizer.convert_ids_to_tokens(range(min(len(tokenizer), lm.d_vocab)))]
    texts = tokenizer.batch_decode([[i] for i in range(len(raw))], clean_up_tokenization_spaces=False)
    starts = np.array(
        [piece.startswith(STARTS) or text.startswith(" ") for piece, text in zip(raw, texts, strict=True)]
    )
    absent = lm.d_vocab - len(raw)  # rows of the unembedding that no token has
    return [text.strip() for text in texts] + [""] * absent, np.pad(starts, (0, absent))


def _continued(ids: np.ndarray, texts: list[str], starts: np.ndarray, count: np.ndarray) -> np.ndarray:
    """(d_vocab,) how often the next token goes on with each token's word; nearer the mean the rarer the token."""
    goes_on = ~starts & np.array([text[:1].isalpha() or text.startswith(APOSTROPHES) for text in texts])
    times = np.bincount(ids[:, :-1].ravel(), weights=goes_on[ids[:, 1:]].ravel(), minlength=len(texts))
    share: np.ndarray = (times + times[starts].sum() / max(count[starts].sum(), 1)) / (count + 1)
    return share


def _numbers(texts: list[str]) -> np.ndarray:
    """(d_vocab,) equal numbers for equal stems, from 0."""
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(stem(text), len(numbers)) for text in texts])
