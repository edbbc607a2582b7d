"""Which features are worth showing, which worth steering with, and how hard: all scores of an SAE in one table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor

from sae_tools.analysis.calibrate import Trials, calibrate
from sae_tools.analysis.concepts import concept_scores, documents, token_shares
from sae_tools.analysis.firings import Firings
from sae_tools.analysis.gains import STRENGTH, gains, steering_scores
from sae_tools.analysis.judge import FEWEST_WORDS, own_words
from sae_tools.analysis.words import Words, read_words, telling
from sae_tools.common import distributed
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE


def score(
    sae: SAE[Any], lm: LanguageModel, site: Site, firings: Firings, ids: Tensor, held_out: Tensor, unit: float,
    config: Features,
) -> pd.DataFrame:  # fmt: skip
    """A row a feature, from (n_blocks, context) ids, in which `firings` were found, and held-out ones.

    `concept` and `steering`: the scores C of `concepts` and S of `gains`, 0 for a feature that has none. `word`: the
    whole, uncommon word that most of its activation falls on, empty for none.
    `gained_tokens`, `gained`: the ten tokens that a push makes likelier, and by how much; empty where none was tried.
    `strength`, `strength_low`, `strength_high`, `shown`, `good_share`, `texts`: as `calibrate` found them; where it
    wrote nothing, gains' own strength, NaN, NaN, NaN, NaN and 0. `unit` is the site's median norm.

    Several processes share the pushes and texts. The first, which has the firings, finds what is worth them and tells
    the others: without firings nothing is. Its table alone is whole.
    """
    words = read_words(lm, ids)
    rare = telling(words, ids)
    shares = token_shares(firings, ids.flatten().numpy(), lm.d_vocab)
    factors = concept_scores(firings, documents(ids.numpy(), lm.special_ids), shares, words)
    tried = _told(_worth_trying(firings, factors, config.n_gained))
    table = pd.DataFrame({"concept": factors["concept"], "steering": 0.0, "word": _first_words(shares, words, rare)})
    for name in ("gained_tokens", "gained"):
        table[name] = pd.Series([np.zeros(0, np.int64 if name == "gained_tokens" else np.float32)] * len(table))
    table = table.assign(
        strength=STRENGTH, strength_low=np.nan, strength_high=np.nan, shown=np.nan, good_share=np.nan, texts=0
    ).rename_axis("feature")
    if not len(tried):
        return table
    found = gains(sae, lm, site, held_out, unit, tried, words)
    steering = steering_scores(found, shares[tried], factors["concept"].to_numpy()[tried], words)
    table.loc[tried, "steering"] = steering
    table.loc[tried, "gained_tokens"] = pd.Series(list(found.tokens), index=tried)
    table.loc[tried, "gained"] = pd.Series(list(found.change), index=tried)
    best = np.argsort(-steering, kind="stable")
    best = best[steering[best] > 0]
    own = own_words(shares[tried[best]], rare)
    steered = np.flatnonzero(own.sum(axis=1) >= FEWEST_WORDS)[: config.n_calibrated]
    best, own = _told(tried[best[steered]]), _told(own[steered])
    written = calibrate(Trials(sae, lm, site, unit, rare, config), best, own, config)
    table.loc[written.index, written.columns] = written
    return table


def _told(rows: np.ndarray) -> np.ndarray:
    """The rows that the first process has found; the others have none of their own."""
    found: np.ndarray = distributed.cat([torch.from_numpy(rows)]).numpy()
    return found


def _first_words(shares: sparse.csr_matrix, words: Words, rare: Words) -> list[str]:
    """The word that most of each feature's activation falls on, "" where that is none or no rare one."""
    whole = (shares @ sparse.diags(words.whole)).tocsr()
    best, most = np.asarray(whole.argmax(axis=1)).ravel(), whole.max(axis=1).toarray().ravel()
    told = (most > 0) & (rare.whole[best] > 0)
    return [words.texts[token] if tells else "" for token, tells in zip(best, told, strict=True)]


def _worth_trying(firings: Firings, factors: pd.DataFrame, n: int) -> np.ndarray:
    """The features that fire, up to `n`: those with the largest √w · g."""
    worth = np.where(firings.count > 0, np.sqrt(factors["whole"]) * factors["several"], -1)
    order = np.argsort(-worth, kind="stable")[:n]
    return np.sort(order[worth[order] >= 0])
