"""Sparse probing: how much of a labelled property do an SAE's best few latents know, beside all of the activation?

Activations and latents are averaged over a text's tokens; latents are chosen by the difference of their class means;
probes are logistic regressions (Gurnee et al. 2023, https://arxiv.org/abs/2305.01610; as in SAEBench).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from sae_tools.common import distributed
from sae_tools.common.errors import InputError
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

SIZES = (1, 2, 5, 20)
"""Numbers of latents that are probed with."""
STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Inverse regularisations C that cross-validation chooses from."""
FOLDS, HELD_OUT, RESAMPLES, LEAST = 3, 0.3, 1000, 10
LONGEST = 128
"""Tokens of a text that are read, the begin token among them."""


@dataclass(frozen=True)
class Labelled:
    """Texts and whether each has the property."""

    name: str
    texts: list[str]
    has: np.ndarray
    """(n,) bool"""
    classes: tuple[str, str]
    """What the table calls the absence and the presence of it."""


def read_table(path: Path) -> Labelled:
    """A table with columns prompt and target, the latter of two values: .csv (also .gz, .zst) or .parquet.

    Raises:
        InputError: it can't be read, lacks a column, or does not have two classes of at least ten texts.
    """
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(pa.input_stream(str(path)))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"probe table {str(path)!r} cannot be read: {reason}.") from None
    for column in ("prompt", "target"):
        if column not in table:
            raise InputError(f"probe table {str(path)!r} has no column {column!r}; it has: {', '.join(table)}.")
    table = table.dropna(subset=["prompt", "target"])
    counts = table["target"].astype(str).value_counts().sort_index()
    if len(counts) != 2 or counts.min() < LEAST:
        raise InputError(
            f"probe table {str(path)!r} has the targets {counts.head(5).to_dict()}, but two of at least {LEAST} texts "
            "each are expected."
        )
    absent, present = counts.index
    name = path.name.split(".")[0]
    has = (table["target"].astype(str) == present).to_numpy()
    return Labelled(name, table["prompt"].astype(str).tolist(), has, (absent, present))


def probe(sae: SAE[Any], lm: LanguageModel, site: Site, labelled: Labelled, batch_size: int = 16) -> pd.DataFrame:
    """A row a probe, `dense` on the activations first, then the best 1, 2, 5 and 20 latents.

    Columns: table, probe, accuracy and auc on the held-out 30%, each with `_low` and `_high` (95%, bootstrap over
    texts), n_train, n_test, latents (ids, the best first; none for dense) and raises (whether each is higher where the
    property is present). Of several processes the first makes the table; the others read their share of the texts.
    """
    acts, features = pooled(sae, lm, site, labelled.texts, batch_size)
    if distributed.rank() > 0:
        return pd.DataFrame()
    train, test = train_test_split(
        np.arange(len(labelled.has)), test_size=HELD_OUT, random_state=0, stratify=labelled.has
    )
    difference = _difference(features[train], labelled.has[train])
    order = np.argsort(-np.abs(difference), kind="stable")
    inputs = {"dense": (acts, np.zeros(0, int))}
    inputs |= {f"{k} latents" if k > 1 else "1 latent": (features[:, order[:k]], order[:k]) for k in SIZES}
    rows = []
    for name, (x, latents) in tqdm(inputs.items(), desc=f"probe {labelled.name}", leave=False):
        scores = _fit(x[train], labelled.has[train]).decision_function(x[test])
        rows.append(
            {"table": labelled.name, "probe": name, **scored(scores, labelled.has[test]), "n_train": len(train),
             "n_test": len(test), "latents": latents, "raises": difference[latents] > 0}
        )  # fmt: skip
    return pd.DataFrame(rows)


@torch.no_grad()
def pooled(
    sae: SAE[Any], lm: LanguageModel, site: Site, texts: Sequence[str], batch_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """(n, d_in) activations and (n, d_sae) latents, the mean over each text's tokens, special ones left out."""
    ids = [lm.tokens(text)[0, : min(LONGEST, lm.context_size)] for text in texts]
    acts = np.zeros((len(texts), lm.width(site)), np.float32)
    features = np.zeros((len(texts), sae.cfg.d_sae), np.float32)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))  # of like length together: little padding
    for start in distributed.share(range(0, len(order), batch_size)):
        which = order[start : start + batch_size]
        # Padding stands behind: no token before it sees it.
        batch = torch.nn.utils.rnn.pad_sequence([ids[i] for i in which], batch_first=True)
        lengths = torch.tensor([len(ids[i]) for i in which], device=batch.device)
        real = torch.arange(batch.shape[1], device=batch.device) < lengths[:, None]
        text = (real & lm.is_text(batch)).to(lm.device)
        found = lm.activations(batch, [site])[site.name]
        share = text.float() / text.sum(dim=1, keepdim=True).clamp(min=1)
        acts[which] = (found.float() * share[..., None]).sum(dim=1).cpu().numpy()
        encoded = torch.zeros(*text.shape, sae.cfg.d_sae, device=text.device)
        encoded[text] = sae.encode(found[text]).float()
        features[which] = (encoded * share[..., None]).sum(dim=1).cpu().numpy()
    for rows in (acts, features):
        distributed.sum_(torch.from_numpy(rows))
    return acts, features


def _difference(features: np.ndarray, has: np.ndarray) -> np.ndarray:
    found: np.ndarray = features[has].mean(axis=0) - features[~has].mean(axis=0)
    return found


def _fit(x: np.ndarray, has: np.ndarray) -> Any:
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return GridSearchCV(pipeline, {"logisticregression__C": STRENGTHS}, cv=FOLDS, scoring="roc_auc").fit(x, has)


def scored(scores: np.ndarray, has: np.ndarray) -> dict[str, float]:
    """Accuracy at 0 and AUC of (n,) scores, each with its 2.5th and 97.5th percentile over resamples of the texts."""
    chance = np.random.default_rng(0)
    drawn = chance.integers(len(has), size=(RESAMPLES, len(has)))
    resampled, present = scores[drawn], has[drawn]
    both = present.any(axis=1) & ~present.all(axis=1)
    found = {}
    for name, value, spread in (
        ("accuracy", np.mean((scores > 0) == has), ((resampled > 0) == present).mean(axis=1)),
        ("auc", auc(scores[None], has[None])[0], auc(resampled[both], present[both])),
    ):
        found[name] = float(value)
        found[f"{name}_low"], found[f"{name}_high"] = (float(v) for v in np.quantile(spread, (0.025, 0.975)))
    return found


def auc(scores: np.ndarray, has: np.ndarray) -> np.ndarray:
    """(m,) areas under the ROC curve of (m, n) scores, by ranks: how often a text with the property scores higher."""
    ranks = rankdata(scores, axis=1)
    n = has.sum(axis=1)
    found: np.ndarray = ((ranks * has).sum(axis=1) - n * (n + 1) / 2) / (n * (has.shape[1] - n))
    return found
