"""What a push along each latent makes likelier in truth, and which latents are worth steering with.

Each latent's unit direction, 0.4 median norms long, is added at the site on a few dozen held-out tokens, the blocks
after it run again, and Δp_t is the mean change in the probability that t comes next: unlike the direct effect on the
logits it holds what the later blocks make of the push.

    S = gain10 · max(0, cross)² · √w · g

gain10 is the sum of the ten largest Δp_t · whole_t, cross the cosine (in the space of words) of the words it fires on
and those ten, w and g as in `concepts`: the push brings words, those that the latent is about, whole and several ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from sae_tools.analysis.steering import directions
from sae_tools.analysis.words import Words
from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.replay import Replay
from sae_tools.models.sites import Site
from sae_tools.saes import SAE

STRENGTH = 0.4
"""Median norms: of the pushes compared the one that did most before the text broke."""
PLACES = (4, 12)
"""Held-out texts, and tokens of each, that are pushed."""
LATENTS = 32
"""Latents in one pass."""
KEPT = 10


@torch.no_grad()
def gains(
    sae: SAE[Any], lm: LanguageModel, site: Site, held_out: Tensor, unit: float, features: np.ndarray, words: Words
) -> dict[str, np.ndarray]:
    """What a push of each of `features` makes likelier on (n_blocks, context) ids.

    `tokens` (n, 10) and `gained` (n, 10): the largest Δp of all tokens; `words` (n, 10) and `by` (n, 10): those of
    Δp · whole. `unit` is the site's median norm.
    """
    ids = places(held_out)
    many = ids.repeat(LATENTS, 1).to(lm.device)
    replay, text = Replay(lm, site, many), lm.is_text(ids).to(lm.device)
    before = replay.logits[: len(ids)].float().softmax(-1)[text].mean(0)
    whole = torch.from_numpy(words.whole).float().to(lm.device)
    found: dict[str, list[np.ndarray]] = {"tokens": [], "gained": [], "words": [], "by": []}
    for some in tqdm(np.split(features, range(LATENTS, len(features), LATENTS)), desc="gains", unit_scale=LATENTS):
        vectors = torch.zeros(LATENTS, sae.W_dec.shape[1], device=lm.device)
        vectors[: len(some)] = STRENGTH * unit * directions(sae, some.tolist())
        change = _after(replay, site, vectors, text)[: len(some)] - before
        every, chosen = (each.topk(min(KEPT, lm.d_vocab)) for each in (change, change * whole))
        rows = (every.indices, every.values, chosen.indices, chosen.values)
        for name, values in zip(found, rows, strict=True):
            found[name].append(values.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _after(replay: Replay, site: Site, vectors: Tensor, text: Tensor) -> Tensor:
    """(n, d_vocab) mean next-token probability with each of (n, d) vectors added, at the (texts, length) places."""
    each = vectors.repeat_interleave(len(text), dim=0)[:, None]
    probability = replay.logits_with(Patch(site, lambda acts: acts + each.to(acts))).float().softmax(-1)
    weight = text.flatten().float() / text.sum()
    return weight @ probability.view(len(vectors), text.numel(), -1)


def places(held_out: Tensor) -> Tensor:
    """(texts, length) ids: the beginnings of blocks from all over (n_blocks, context) ones."""
    n, length = PLACES
    rows = np.linspace(0, len(held_out) - 1, min(n, len(held_out))).astype(np.int64)
    return held_out[torch.from_numpy(rows), :length].long()


def steering_scores(found: dict[str, np.ndarray], shares: sparse.csr_matrix, table: pd.DataFrame, words: Words) -> (
    np.ndarray
):  # fmt: skip
    """(n,) S, from what `gains` found, the features' (n, d_vocab) token shares and their factors `whole`, `several`."""
    by = found["by"].clip(min=0)
    fired = shares @ (words.space * words.whole[:, None])
    gained = (words.space[found["words"]] * by[..., None]).sum(axis=1)
    length = np.linalg.norm(fired, axis=1) * np.linalg.norm(gained, axis=1)
    cross = np.divide((fired * gained).sum(axis=1), length, out=np.zeros(len(by)), where=length > 1e-9).clip(min=0)
    score: np.ndarray = by.sum(axis=1) * cross**2 * np.sqrt(table["whole"]) * table["several"]
    return np.asarray(score)
