"""What a person looks at: for each feature its examples, histogram, promoted tokens, neighbours and a label.

`describe` makes the tables of one SAE, `FeatureStore` reads them. A feature's label is the tokens on which it is
strongest in sum; it says where the feature fires, not what it means.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.common.artifacts import verify
from sae_tools.common.settings import Features
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

BINS = 40
BANDS = ("0–25%", "25–50%", "50–75%", "75–100%")
LABEL_TOKENS = 3


@dataclass(frozen=True)
class Firings:
    """Every activation above 0, sorted by feature, then by token."""

    token: np.ndarray
    """(n,) index into the flattened ids"""
    value: np.ndarray
    """(n,) float32"""
    starts: np.ndarray
    """(d_sae + 1,) where each feature's run begins"""
    n_tokens: int

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and values of one feature."""
        run = slice(self.starts[feature], self.starts[feature + 1])
        return self.token[run], self.value[run]


@dataclass(frozen=True)
class Example:
    band: str
    """"top", or the quarter of the feature's range that the activation lies in"""
    activation: float
    ids: list[int]
    """The tokens around the one where the feature fires."""
    values: list[float]
    """The feature's activation at each of them."""
    position: int
    """Which of them is the one."""


@torch.no_grad()
def find_firings(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Firings:
    """Encode the text tokens of (n_blocks, context) ids and keep what fires."""
    tokens, features, values, n_tokens = [], [], [], 0
    with tqdm(total=ids.numel(), desc="features", unit="tok", unit_scale=True) as bar:
        for i, batch in enumerate(torch.split(ids.long(), batch_size)):
            text = lm.is_text(batch)
            where = text.flatten().nonzero().squeeze(-1) + i * batch_size * ids.shape[1]
            acts = sae.encode(lm.activations(batch, [site])[site.name][text.to(lm.device)]).cpu()
            row, feature = (acts > 0).nonzero(as_tuple=True)
            tokens.append(where[row].int().numpy())
            features.append(feature.int().numpy())
            values.append(acts[row, feature].float().numpy())
            n_tokens += len(where)
            bar.update(batch.numel())
    feature = np.concatenate(features)
    order = np.argsort(feature, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(feature, minlength=sae.cfg.d_sae))])
    return Firings(np.concatenate(tokens)[order], np.concatenate(values)[order], starts, n_tokens)


def describe(
    sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, config: Features
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The table of features (one row each) and the table of examples of an SAE, from (n_blocks, context) ids."""
    firings = find_firings(sae, lm, site, ids, config.batch_size)
    promoted = promoted_tokens(sae, lm, site, config.n_promoted)
    near = neighbours(sae.W_dec.detach().float(), config.n_neighbours)
    flat = ids.flatten().numpy()
    rows, examples = [], []
    for feature in tqdm(range(sae.cfg.d_sae), desc="describe", unit="feature"):
        token, value = firings.of(feature)
        fires = len(value) > 0
        maximum = float(value.max()) if fires else 0.0
        rows.append(
            {
                "label": label(flat[token], value, lm),
                "density": len(value) / firings.n_tokens,
                "maximum": maximum,
                "mean": float(value.mean()) if fires else 0.0,
                "histogram": np.histogram(value, BINS, (0, maximum))[0] if fires else np.zeros(0, int),
                **{
                    name: table[feature] if fires else table[feature][:0]
                    for name, table in {**promoted, **near}.items()
                },
            }
        )
        examples += [
            {"feature": feature, **vars(e)} for e in pick_examples(token, value, flat, ids.shape[1], config, feature)
        ]
    table = pd.DataFrame(rows)
    table.index.name = "feature"
    return table, pd.DataFrame(examples, columns=["feature", *Example.__dataclass_fields__])


def label(ids: np.ndarray, values: np.ndarray, lm: LanguageModel) -> str:
    """The tokens that hold most of a feature's activation in sum, strongest first; empty if it never fires."""
    distinct, inverse = np.unique(ids, return_inverse=True)
    if not len(distinct):
        return ""
    total = np.bincount(inverse, weights=values)
    best = distinct[np.argsort(-total, kind="stable")[:LABEL_TOKENS]]
    texts = [lm.tokenizer.decode([int(i)], clean_up_tokenization_spaces=False) for i in best]
    shown = [text.strip() or text.replace("\n", "⏎").replace(" ", "␣") for text in texts]
    return " · ".join(dict.fromkeys(shown))


def pick_examples(
    token: np.ndarray, value: np.ndarray, ids: np.ndarray, context: int, config: Features, seed: int
) -> Iterator[Example]:
    """The strongest examples of a feature, one a block, then some drawn from each quarter of its range."""
    if not len(value):
        return
    by_value = np.argsort(-value, kind="stable")
    _, first = np.unique(token[by_value] // context, return_index=True)
    top = by_value[np.sort(first)[: config.n_top]]
    for i in top:
        yield _example("top", i, token, value, ids, context, config)
    quarter = np.minimum((4 * value / value.max()).astype(int), 3)
    chance = np.random.default_rng(seed)
    for band in (3, 2, 1, 0):
        members = np.setdiff1d(np.flatnonzero(quarter == band), top)
        for i in chance.choice(members, min(config.n_per_band, len(members)), replace=False):
            yield _example(BANDS[band], i, token, value, ids, context, config)


def _example(
    band: str, i: int, token: np.ndarray, value: np.ndarray, ids: np.ndarray, context: int, config: Features
) -> Example:
    at = int(token[i])
    block = at - at % context
    start, end = max(block, at - config.window), min(block + context, at + config.window // 2 + 1)
    values = np.zeros(end - start, np.float32)
    inside = slice(*np.searchsorted(token, [start, end]))
    values[token[inside] - start] = value[inside]
    return Example(band, float(value[i]), ids[start:end].tolist(), values.tolist(), at - start)


@torch.no_grad()
def promoted_tokens(sae: SAE[Any], lm: LanguageModel, site: Site, n: int) -> dict[str, np.ndarray]:
    """(d_sae, n) tokens whose logits each feature raises and lowers most, by its direct effect (W_dec · γ · W_U)."""
    parts = []
    for directions in torch.split(sae.W_dec.detach(), 1024):
        effects = lm.logit_effects(site, directions).float()
        best, worst = (effects.topk(min(n, lm.d_vocab), largest=largest) for largest in (True, False))
        parts.append([t.cpu().numpy() for t in (best.indices, best.values, worst.indices, worst.values)])
    names = ("top_tokens", "top_logits", "bottom_tokens", "bottom_logits")
    return {name: np.concatenate(columns) for name, columns in zip(names, zip(*parts, strict=True), strict=True)}


def neighbours(directions: Tensor, n: int) -> dict[str, np.ndarray]:
    """(d_sae, n) other features with the largest cosine between their (d_sae, d) decoder directions."""
    unit = torch.nn.functional.normalize(directions, dim=-1)
    n = min(n, len(unit) - 1)
    parts = []
    for start in range(0, len(unit), 1024):
        cosines = unit[start : start + 1024] @ unit.T
        cosines[torch.arange(len(cosines)), torch.arange(start, start + len(cosines))] = -2
        parts.append(cosines.topk(n))
    return {
        "neighbours": torch.cat([p.indices for p in parts]).cpu().numpy(),
        "neighbour_cosines": torch.cat([p.values for p in parts]).cpu().numpy(),
    }


class FeatureStore:
    """The tables that the features stage wrote."""

    def __init__(self, about: dict[str, Any], table: pd.DataFrame, examples: pd.DataFrame) -> None:
        self.about, self.table = about, table
        self._examples = examples.set_index("feature")

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Read a folder.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        about = verify(folder)
        return cls(about, pd.read_parquet(folder / "features.parquet"), pd.read_parquet(folder / "examples.parquet"))

    def examples(self, feature: int) -> list[Example]:
        """Examples of one feature: the top ones, strongest first, then from the highest to the lowest quarter."""
        if feature not in self._examples.index:
            return []
        rows = self._examples.loc[[feature]]
        return [
            Example(r.band, r.activation, r.ids.tolist(), r.values_.tolist(), r.position)
            for r in rows.rename(columns={"values": "values_"}).itertuples()
        ]
