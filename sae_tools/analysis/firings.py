"""Where the features of an SAE fire: every activation above 0, in the order of features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from sae_tools.common import distributed
from sae_tools.models.lm import LanguageModel
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

BINS = 40


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

    @property
    def d_sae(self) -> int:
        return len(self.starts) - 1

    def of(self, feature: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and values of one feature."""
        run = slice(self.starts[feature], self.starts[feature + 1])
        return self.token[run], self.value[run]

    @cached_property
    def count(self) -> np.ndarray:
        """(d_sae,) how often each feature fires."""
        return np.diff(self.starts)

    @cached_property
    def feature(self) -> np.ndarray:
        """(n,) which feature fires."""
        return np.repeat(np.arange(self.d_sae, dtype=np.int32), self.count)

    @cached_property
    def maximum(self) -> np.ndarray:
        """(d_sae,) each feature's largest value, 0 where it never fires."""
        largest = np.zeros(self.d_sae, np.float32)
        live = self.count > 0
        if live.any():
            largest[live] = np.maximum.reduceat(self.value, self.starts[:-1][live])
        return largest

    @cached_property
    def bin(self) -> np.ndarray:
        """(n,) in which of `BINS` equal steps from 0 to its feature's maximum each value lies."""
        step = np.divide(BINS, self.maximum, out=np.zeros(self.d_sae), where=self.maximum > 0)
        steps: np.ndarray = np.minimum((self.value * step[self.feature]).astype(np.uint8), BINS - 1)
        return steps


@torch.no_grad()
def find_firings(sae: SAE[Any], lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Firings:
    """Encode the text tokens of (n_blocks, context) ids and keep what fires.

    Several processes share the batches. The first gets all firings, the others none.
    """
    tokens, features, values, n_tokens = [], [], [], 0
    starts = distributed.share(range(0, len(ids), batch_size))
    total = sum(ids[start : start + batch_size].numel() for start in starts)
    with tqdm(total=total, desc="features", unit="tok", unit_scale=True, disable=distributed.rank() > 0) as bar:
        for start in starts:
            batch = ids[start : start + batch_size].long()
            text = lm.is_text(batch)
            where = text.flatten().nonzero().squeeze(-1) + start * ids.shape[1]
            acts = sae.encode(lm.activations(batch, [site])[site.name][text.to(lm.device)]).cpu()
            row, feature = (acts > 0).nonzero(as_tuple=True)
            tokens.append(where[row].int())
            features.append(feature.int())
            values.append(acts[row, feature].float())
            n_tokens += len(where)
            bar.update(batch.numel())
    token, feature, value = (distributed.cat(parts, first_only=True) for parts in (tokens, features, values))
    return in_order(token, feature, value, sae.cfg.d_sae, sum(distributed.each(n_tokens)))


def in_order(tokens: Tensor, features: Tensor, values: Tensor, d_sae: int, n_tokens: int) -> Firings:
    """Firings from (n,) tokens, ascending, features and values; the first two are int32."""
    feature, order = features.sort(stable=True)
    starts = torch.searchsorted(feature, torch.arange(d_sae + 1, dtype=torch.int32))
    return Firings(tokens[order].numpy(), values[order].numpy(), starts.numpy(), n_tokens)
