"""Is a label true? How well what it says predicts where its feature fires, on text that it was not made from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sae_tools.analysis.contexts import NOTHING, Text
from sae_tools.analysis.firings import Firings
from sae_tools.analysis.labels import Labels, token_pairs

DETECTION = ("detection", "detection_precision", "detection_recall")


def detect(labels: Labels, firings: Firings, text: Text) -> pd.DataFrame:
    """Columns detection (F1 = 2PR / (P + R)), detection_precision and detection_recall of each label.

    Precision P is the share of the text tokens meant by the label on which the feature fires, 0 where the label means
    none; recall R the share of the firings that the label means. NaN where the feature never fires.
    """
    hits = np.bincount(firings.feature[meant(labels, firings, text)], minlength=firings.d_sae)
    claims = claimed(labels, text)
    fires = np.where(firings.count > 0, firings.count, np.nan)
    return pd.DataFrame({
        "detection": 2 * hits / (claims + fires),
        "detection_precision": np.where(firings.count > 0, hits / np.maximum(claims, 1), np.nan),
        "detection_recall": hits / fires,
    })  # fmt: skip


def meant(labels: Labels, firings: Firings, text: Text) -> np.ndarray:
    """(n,) whether each firing is where its feature's label says."""
    fits = np.ones(len(firings.token), bool)
    for said, found in ((labels.on, text.word), (labels.after, text.before)):
        here, part = found[firings.token], np.repeat((said == NOTHING).all(axis=1), firings.count)
        for words in said.T:
            part |= np.repeat(np.where(words == NOTHING, -1, words), firings.count) == here
        fits &= part
    fits &= np.repeat(_says_something(labels), firings.count)
    return fits


def claimed(labels: Labels, text: Text) -> np.ndarray:
    """(d_sae,) on how many text tokens the feature should fire by its label."""
    words, before = (np.bincount(part[text.is_text], minlength=text.n_words) for part in (text.word, text.before))
    words[NOTHING] = before[NOTHING] = 0
    one = words[labels.on].sum(axis=1) + before[labels.after].sum(axis=1)
    both = (labels.on != NOTHING).any(axis=1) & (labels.after != NOTHING).any(axis=1)
    pairs = token_pairs(text, labels.after[:, None, :], labels.on[:, :, None]).sum(axis=(1, 2))
    claims: np.ndarray = np.where(both, pairs, one)
    return claims


def _says_something(labels: Labels) -> np.ndarray:
    some: np.ndarray = ((labels.on != NOTHING) | (labels.after != NOTHING)).any(axis=1)
    return some
