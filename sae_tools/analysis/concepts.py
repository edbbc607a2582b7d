"""Which features are concepts: C = w · g · c · b for every latent, from where it fires in a text.

With p_t the share of a latent's summed activation on token t

    w   Σ p_t whole_t: how much falls on whole, uncommon words
    g   clip((exp H - 1) / 4, 0, 1), H the entropy of p over words: is it more than one word?
    c   (‖Σ p_t ê_t‖² - Σ p_t²) / (1 - Σ p_t²), at least 0: the mean cosine of two different tokens of it, ê the unit
        rows of the space of words: do they belong together?
    b   clip(ln(pairs of firings in one document / pairs expected), 0, 2.5): does it come back where it came once?

and C = 0 for a latent that fires fewer than 100 times or on more than 5% of the tokens. Of the first 25 by C on the
embedded model a reader called 18 a concept, of the 25 with the largest activations 5. It misses what spreads over
common words: dialogue, apology.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import sparse

from sae_tools.analysis.firings import Firings
from sae_tools.analysis.words import Words

FEWEST = 100
DENSEST = 0.05
MOST_BURST = 2.5


def token_shares(firings: Firings, ids: np.ndarray, d_vocab: int) -> sparse.csr_matrix:
    """(d_sae, d_vocab) share of each latent's summed activation on each token, of the flattened ids; 0 where dead."""
    shape = (firings.d_sae, d_vocab)
    sums = sparse.csr_matrix((firings.value.astype(np.float64), ids[firings.token], firings.starts), shape)
    sums.sum_duplicates()
    total = np.asarray(sums.sum(axis=1)).ravel()
    return sparse.diags(np.divide(1, total, out=np.zeros_like(total), where=total > 0)) @ sums


def concept_scores(firings: Firings, document: np.ndarray, shares: sparse.csr_matrix, words: Words) -> pd.DataFrame:
    """A row a latent: `concept` C, and its factors `whole` w, `several` g, `coherence` c, `burst` b.

    `shares` are those of `token_shares`, `document` those of `documents`.
    """
    table = pd.DataFrame(
        {
            "whole": shares @ words.whole,
            "several": several(shares, words),
            "coherence": coherence(shares, words.space),
            "burst": burst(firings, document),
        }
    ).rename_axis("feature")
    kept = (firings.count >= FEWEST) & (firings.count <= DENSEST * firings.n_tokens)
    table.insert(0, "concept", table.prod(axis=1).where(kept, 0.0))
    return table


def documents(ids: np.ndarray, special: list[int]) -> np.ndarray:
    """(tokens,) number of the document that each token of (n_blocks, context) ids is in.

    A block's border and a token of `special` begin a new one.
    """
    begins = np.isin(ids, special)
    begins[:, 0] = True
    return np.cumsum(begins) - 1


def several(shares: sparse.csr_matrix, words: Words) -> np.ndarray:
    """(d_sae,) g: 0 for one word, 1 from five equally frequent ones on."""
    number = np.arange(len(words.word))
    merge = sparse.csr_matrix((np.ones(len(number)), (number, words.word)), (len(number), words.n_words))
    merged = (shares @ merge).tocsr()
    merged.data = -merged.data * np.log(np.where(merged.data > 0, merged.data, 1))
    found: np.ndarray = ((np.exp(np.asarray(merged.sum(axis=1)).ravel()) - 1) / 4).clip(0, 1)
    return found


def coherence(shares: sparse.csr_matrix, space: np.ndarray) -> np.ndarray:
    """(d_sae,) c: mean cosine in (d_vocab, d) `space` of two different tokens drawn by their shares."""
    same = shares.power(2)
    both = ((shares @ space) ** 2).sum(axis=1) - same @ (space**2).sum(axis=1)
    apart = 1 - np.asarray(same.sum(axis=1)).ravel()
    found: np.ndarray = np.divide(both, apart, out=np.zeros_like(apart), where=apart > 1e-9).clip(min=0)
    return found


def burst(firings: Firings, document: np.ndarray) -> np.ndarray:
    """(d_sae,) b, from the (tokens,) number of the document that each token is in."""
    size = np.bincount(document)
    ones = np.ones(len(firings.token))
    times = sparse.csr_matrix((ones, document[firings.token], firings.starts), (firings.d_sae, len(size)))
    times.sum_duplicates()
    together = np.asarray(times.power(2).sum(axis=1)).ravel() - firings.count
    expected = firings.count * (firings.count - 1.0) * ((size / size.sum()) ** 2).sum()
    ratio = np.divide(together, expected, out=np.ones_like(together), where=(expected > 0) & (together > 0))
    found: np.ndarray = np.log(ratio).clip(0, MOST_BURST)
    return found
