"""Which features fire on the same tokens more than chance has it.

The score is the phi coefficient (Pearson's correlation of two yes-or-no variables: does the feature fire on a token?):

    phi = (n n_ab - n_a n_b) / sqrt(n_a n_b (n - n_a) (n - n_b))

n tokens, n_a and n_b firings of either, n_ab of both on one token. 0 is chance, 1 is always together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from tqdm import tqdm

from sae_tools.analysis.contexts import largest_sums
from sae_tools.analysis.examples import cut_at
from sae_tools.analysis.firings import Firings

N_TOGETHER = 8
LEAST, LEAST_PHI = 5, 0.05
"""Tokens on which two features must meet (two that fire once each, on one token, are no pair), and phi to be named."""
MOST_PAIRS = 15 * 10**7
"""Pairs of firings on a token, over all tokens, above which only every so many of the tokens are counted: 3 s."""
CELLS = 2**23
"""Pairs of features that are looked at together."""


def coactive(firings: Firings, n: int = N_TOGETHER, most_pairs: int = MOST_PAIRS) -> pd.DataFrame:
    """Columns together and together_scores: up to `n` other features with the largest phi, largest first."""
    fires, n_tokens = _fires(firings, most_pairs)
    by_token, rows = fires.T.tocsr(), max(1, CELLS // firings.d_sae)
    count = np.diff(fires.indptr).astype(np.float64)
    spread = np.sqrt(count * (n_tokens - count)).clip(min=1)
    found = []
    for start in tqdm(range(0, firings.d_sae, rows), desc="together"):
        met = fires[start : start + rows] @ by_token
        row, other = np.repeat(np.arange(met.shape[0]), np.diff(met.indptr)), met.indices
        kept = (met.data >= LEAST) & (row + start != other)
        row, other, both = row[kept], other[kept], met.data[kept]
        phi = (n_tokens * both - count[row + start] * count[other]) / (spread[row + start] * spread[other])
        high = phi >= LEAST_PHI
        found.append(largest_sums(csr_array((phi[high], (row[high], other[high])), shape=met.shape), n))
    features, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    kept = scores > 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(axis=1))])
    return pd.DataFrame({
        "together": pd.Series(cut_at(features[kept], offsets), dtype=object),
        "together_scores": pd.Series(cut_at(scores[kept], offsets), dtype=object),
    })  # fmt: skip


def _fires(firings: Firings, most_pairs: int) -> tuple[csr_array, int]:
    """(d_sae, tokens) 1 where a feature fires, and the number of tokens that were counted."""
    token, starts, n_tokens = firings.token, firings.starts, firings.n_tokens
    pairs = int((np.bincount(token).astype(np.int64) ** 2).sum()) if len(token) else 0
    if pairs > most_pairs:
        step = -(-pairs // most_pairs) | 1  # odd: every position of a block is met, whatever its power of two
        kept = token % step == 0
        starts = np.concatenate([[0], np.cumsum(kept)])[starts]
        token, n_tokens = token[kept], max(1, n_tokens // step)
    width = int(token.max(initial=0)) + 1
    return csr_array((np.ones(len(token), np.float64), token, starts), shape=(firings.d_sae, width)), n_tokens
