"""A label for each feature, of words alone: where it fires, never what it means.

    on      blue · red · yellow            it fires on these words
    after   after “named” · “called”       it fires on what follows these words
    both    “the” after “in”               it fires on these words where they follow those

A label is a prediction: the feature fires where the label says, and nowhere else. Of the three forms, and of the words
that the feature fires on or after most, those are taken whose prediction has the largest F1 on the text at hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sae_tools.analysis.contexts import NOTHING, Contexts, Text, Vocabulary, largest_sums
from sae_tools.analysis.firings import Firings

CANDIDATES = 10
"""Words that a label may name: those that hold most activation, or stand before most firings."""
MOST_WORDS, MOST_OF_BOTH = 3, 2
"""Words of a label that says one thing, and of each part of one that says both."""
MARGIN = 0.03
"""F1 by which the context must predict better than the words alone, to be said."""
ROUNDS = 8


@dataclass(frozen=True)
class Labels:
    """What each label says, padded with `NOTHING`; all of it is `NOTHING` for a feature that never fires."""

    on: np.ndarray
    """(d_sae, MOST_WORDS) the words that it fires on; `NOTHING`: any"""
    after: np.ndarray
    """(d_sae, MOST_WORDS) the words that stand before; `NOTHING`: any"""
    f1: np.ndarray
    """(d_sae,) how well that predicts where it fires, on the text that the label was made from"""

    def texts(self, vocabulary: Vocabulary) -> list[str]:
        """The labels as people read them."""
        return [
            _written(vocabulary.texts[on[on != NOTHING]].tolist(), vocabulary.texts[after[after != NOTHING]].tolist())
            for on, after in zip(self.on, self.after, strict=True)
        ]


def _written(on: list[str], after: list[str]) -> str:
    context = "after " + " · ".join(f"“{word}”" for word in after)
    if not after:
        return " · ".join(on)
    return f"{' · '.join(f'“{word}”' for word in on)} {context}" if on else context


def make_labels(firings: Firings, text: Text, contexts: Contexts) -> Labels:
    """The label of each feature."""
    words, _ = largest_sums(contexts.on, CANDIDATES)
    befores, _ = largest_sums(contexts.before, CANDIDATES)
    hits, claims = _counts(firings, text, words, befores)
    fires = firings.count
    on, on_f1 = _best(hits.sum(axis=2)[:, :-1], claims[:, :-1, -1], fires, MOST_WORDS)
    after, after_f1 = _best(hits.sum(axis=1)[:, :-1], claims[:, -1, :-1], fires, MOST_WORDS)
    both = _best_of_both(hits[:, :-1, :-1], claims[:, :-1, :-1], fires, on, after)
    no = np.zeros_like(on)
    forms = [(on, no, on_f1), (no, after, after_f1 - MARGIN), (*both[:2], both[2] - MARGIN)]
    form = np.argmax([f1 for *_, f1 in forms], axis=0)[:, None]
    return Labels(
        _named(words, np.choose(form, [on for on, _, _ in forms])),
        _named(befores, np.choose(form, [after for _, after, _ in forms])),
        np.choose(form[:, 0], [on_f1, after_f1, both[2]]),
    )


def _named(candidates: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(d_sae, MOST_WORDS) the chosen ones of (d_sae, n) candidates, in their order."""
    order = np.argsort(~chosen, axis=1, kind="stable")[:, :MOST_WORDS]
    named: np.ndarray = np.take_along_axis(np.where(chosen, candidates, NOTHING), order, axis=1)
    return named


def _counts(firings: Firings, text: Text, words: np.ndarray, befores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d_sae, n + 1, n + 1) by candidate word and candidate before it: firings, and text tokens.

    At the last index of an axis there are the firings that meet no candidate, but tokens whatever they meet.
    """
    n = words.shape[1]
    cell = firings.feature.astype(np.int64)
    for found, candidates in ((text.word, words), (text.before, befores)):
        cell = cell * (n + 1) + _place(firings, found[firings.token], candidates)
    hits = np.bincount(cell, minlength=firings.d_sae * (n + 1) ** 2).reshape(-1, n + 1, n + 1)
    claims = np.zeros_like(hits)
    claims[:, :-1, :-1] = token_pairs(text, befores[:, None, :], words[:, :, None])
    claims[:, :-1, -1] = np.bincount(text.word[text.is_text], minlength=text.n_words)[words]
    claims[:, -1, :-1] = np.bincount(text.before[text.is_text], minlength=text.n_words)[befores]
    return hits, claims


def token_pairs(text: Text, before: np.ndarray, word: np.ndarray) -> np.ndarray:
    """How many text tokens are each of some words and stand after each of some, shaped as both are together."""
    before, word = np.broadcast_arrays(before, word)
    counts: np.ndarray = np.asarray(text.pairs[before.flatten(), word.flatten()]).reshape(word.shape)
    return np.where((before == NOTHING) | (word == NOTHING), 0, counts)


def _place(firings: Firings, found: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """(n,) at which of its feature's candidates each firing's word is, or their number."""
    place = np.full(len(found), candidates.shape[1], np.int8)
    for i, words in enumerate(candidates.T):
        place[np.repeat(np.where(words == NOTHING, -1, words), firings.count) == found] = i
    return place


def _best(hits: np.ndarray, claims: np.ndarray, fires: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(d_sae, n) which of the columns, at most `most`, predict best together, and (d_sae,) their F1.

    F1 = 2 Σ hits / (Σ claims + fires) over the chosen ones. Its maximum is where those with the largest
    2 hits - F1 claims are chosen, found by iteration (Dinkelbach, On nonlinear fractional programming, 1967).
    """
    f1 = np.zeros(len(hits))
    for _ in range(ROUNDS):
        gain = 2 * hits - f1[:, None] * claims
        order = np.argsort(-gain, axis=1, kind="stable")[:, :most]
        chosen = np.zeros(hits.shape, bool)
        np.put_along_axis(chosen, order, np.take_along_axis(gain, order, axis=1) > 0, axis=1)
        f1 = 2 * (hits * chosen).sum(axis=1) / np.maximum((claims * chosen).sum(axis=1) + fires, 1)
    return chosen, f1


def _best_of_both(
    hits: np.ndarray, claims: np.ndarray, fires: np.ndarray, on: np.ndarray, after: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(d_sae, n) which words after which words predict best, and (d_sae,) their F1.

    Each part in turn is the best for the other, from the best words alone and from the best context alone.
    """

    def by(chosen: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
        weights = np.expand_dims(chosen, 3 - axis)
        return _best((hits * weights).sum(axis=axis), (claims * weights).sum(axis=axis), fires, MOST_OF_BOTH)

    def alternate(context: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        words, _ = by(context, 2)
        words, _ = by(by(words, 1)[0], 2)
        return (words, *by(words, 1))

    one, other = alternate(by(on, 1)[0]), alternate(after)
    better = other[2] > one[2]
    return (
        np.where(better[:, None], other[0], one[0]),
        np.where(better[:, None], other[1], one[1]),
        np.where(better, other[2], one[2]),
    )
