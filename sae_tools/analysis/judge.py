"""Is a steered text good: does it show what was pushed, and is it still a text?

A text is fluent if the unsteered model's loss on it, in nats a token, is at most 1 above its loss on the unsteered text
of the same seed, and at most a fifth of its pairs of neighbours are repeated; good if it also holds words of the
feature's own twice at least, and once more than the unsteered text.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from sae_tools.analysis.words import Words
from sae_tools.metrics.predictions import losses
from sae_tools.models.lm import LanguageModel

MOST_LOSS = 1.0
MOST_REPEATED = 0.2
FEWEST_WORDS = 2
N_OWN = 10
LEAST_SHARE = 0.02
"""Of a feature's activation, on a word of its own."""


@dataclass(frozen=True)
class Measured:
    """What is measured of (rows, length) texts, each (rows,)."""

    shown: np.ndarray
    """How often there is a word of the feature's own."""
    loss: np.ndarray
    """Nats a token, in the unsteered model; NaN where nothing was written."""
    repeated: np.ndarray
    """Share of repeated bigrams."""

    def fluent(self, plain: Measured) -> np.ndarray:
        """(rows,) which texts are fluent; `plain` are the unsteered ones of equal seeds."""
        found: np.ndarray = (self.loss <= plain.loss + MOST_LOSS) & (self.repeated <= MOST_REPEATED)
        return found

    def more(self, plain: Measured) -> np.ndarray:
        """(rows,) how far each text shows the feature: 1 for two own words more than the unsteered one, ½ for one, 0
        for none and for a text that is not fluent. Tells features apart with fewer texts than `good`.
        """
        found: np.ndarray = self.fluent(plain) * np.clip(self.shown - plain.shown, 0, FEWEST_WORDS) / FEWEST_WORDS
        return found

    def good(self, plain: Measured) -> np.ndarray:
        """(rows,) which texts are good."""
        found: np.ndarray = self.fluent(plain) & (self.shown >= np.maximum(FEWEST_WORDS, plain.shown + 1))
        return found


def own_words(shares: sparse.csr_matrix, words: Words) -> np.ndarray:
    """(n, n_words) boolean: the words on which (n, d_vocab) shares of activation lie most, as its label names them.

    Whole, uncommon words alone: of the first ten those that have a fiftieth of the activation.
    """
    own = np.zeros((shares.shape[0], words.n_words), bool)
    fired = (shares @ sparse.diags(words.whole)).toarray()
    best = np.argsort(-fired, axis=1, kind="stable")[:, :N_OWN]
    row, place = np.nonzero(np.take_along_axis(fired, best, 1) >= LEAST_SHARE)
    own[row, words.word[best[row, place]]] = True
    return own


def measure(lm: LanguageModel, prompt: Tensor, new: Tensor, own: np.ndarray, words: Words) -> Measured:
    """Measure (rows, length) new tokens, negative after a text's end, after a (1, n) prompt; own words by row."""
    return Measured(shown(new.numpy(), own, words), loss(lm, prompt, new), repeated(new.numpy()))


def shown(new: np.ndarray, own: np.ndarray, words: Words) -> np.ndarray:
    """(rows,) how many own words each text holds, each as often as it stands there."""
    word = np.where((new >= 0) & (words.whole[new] > 0), words.word[new], -1)
    hit = np.take_along_axis(own, word.clip(min=0), 1) & (word >= 0)
    return np.asarray(hit.sum(axis=1))


def repeated(new: np.ndarray) -> np.ndarray:
    """(rows,) `sweep.repeated_bigrams` of each text."""
    pairs = np.where((new[:, :-1] >= 0) & (new[:, 1:] >= 0), new[:, :-1] * (new.max() + 1) + new[:, 1:], -1)
    count = (pairs >= 0).sum(axis=1)
    return np.where(count > 0, 1 - _distinct(pairs) / count.clip(min=1), 0.0)


@torch.no_grad()
def loss(lm: LanguageModel, prompt: Tensor, new: Tensor) -> np.ndarray:
    """(rows,) mean loss of each text's new tokens, without any push."""
    ids = torch.cat([prompt.cpu().expand(len(new), -1), new.clamp(min=0)], dim=1).to(lm.device)
    each = losses(ids, lm.logits(ids), {})[0][:, prompt.shape[1] - 1 :].cpu()
    each[new < 0] = torch.nan
    return np.asarray(each.nanmean(dim=1))


def _distinct(values: np.ndarray) -> np.ndarray:
    """(rows,) how many different values from 0 on stand in each of (rows, n)."""
    ordered = np.sort(values, axis=1)
    first = np.diff(ordered, axis=1, prepend=-1) != 0
    return np.asarray((first & (ordered >= 0)).sum(axis=1))
