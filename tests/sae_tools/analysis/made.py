"""Firings and texts made up for tests."""

from __future__ import annotations

import numpy as np

from sae_tools.analysis.contexts import Text
from sae_tools.analysis.firings import Firings

CONTEXT = 8


def firings_of(*features: tuple[list[int], list[float]], n_tokens: int = 12) -> Firings:
    """From the tokens and values of each feature."""
    tokens, values = ([part for feature in features for part in feature[i]] for i in range(2))
    starts = np.cumsum([0, *(len(feature[0]) for feature in features)])
    return Firings(np.array(tokens, np.int32), np.array(values, np.float32), starts, n_tokens)


def random_firings(acts: np.ndarray) -> Firings:
    """Those of (tokens, d_sae) activations."""
    columns = [(np.flatnonzero(column).tolist(), column[column > 0].tolist()) for column in acts.T]
    return firings_of(*columns, n_tokens=len(acts))


def random_text(seed: int, n_words: int = 12, n: int = 50 * CONTEXT) -> Text:
    """Blocks of `CONTEXT` words, the rarer the higher; word 1 is a special token."""
    word = np.random.default_rng(seed).geometric(0.25, n).clip(max=n_words - 1).astype(np.int32)
    before, after = np.roll(word, 1), np.roll(word, -1)
    before[::CONTEXT], after[CONTEXT - 1 :: CONTEXT] = 0, 0
    return Text(word, before, after, word != 1, n_words)


def random_acts(seed: int, text: Text, d_sae: int) -> np.ndarray:
    """(tokens, d_sae) activations that depend on the word, the one before, both, or nothing; feature 2 is dead."""
    chance = np.random.default_rng(seed)
    acts = np.zeros((len(text.word), d_sae))
    for feature in range(d_sae):
        likely = chance.random(3)[:, None] * chance.random((3, text.n_words)) ** 3
        odds = (likely[0][text.word], likely[1][text.before], (likely[0][text.word] * likely[1][text.before]) ** 0.5)
        fires = chance.random(len(acts)) < [*odds, np.full(len(acts), 0.1)][feature % 4]
        acts[:, feature] = fires * text.is_text * (feature != 2) * (chance.random(len(acts)) + 0.1)
    return acts
