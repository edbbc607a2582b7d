"""Many continuations in one pass, each row with its own random numbers; a patch may treat each row in its own way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sae_tools.models.lm import LanguageModel, Patch, noise, pick

OVER = -1
"""Stands for a token after a row's end."""


@torch.no_grad()
def write_rows(
    lm: LanguageModel, ids: Tensor, max_new_tokens: int, temperature: float, seeds: Sequence[int],
    patch: Patch | None = None,
) -> Tensor:  # fmt: skip
    """(rows, max_new_tokens) new tokens after (rows, n) ids, `OVER` from a row's end token on.

    Row by row what `LanguageModel.generate` gives with the row's seed, up to the rounding of a pass over many rows.
    """
    rows = len(ids)
    generators = {seed: torch.Generator().manual_seed(seed) for seed in dict.fromkeys(seeds)}
    which = torch.tensor([list(generators).index(seed) for seed in seeds])
    new = torch.full((rows, max_new_tokens), OVER)
    alive, cache, step = torch.ones(rows, dtype=torch.bool), None, ids
    for i in range(min(max_new_tokens, lm.context_size - ids.shape[1])):
        logits, cache = lm.forward(step, patch, cache)
        chance = torch.stack([noise(lm.d_vocab, generator) for generator in generators.values()])
        tokens = pick(logits[:, -1], temperature, chance[which])
        if lm.tokenizer.eos_token_id is not None:
            alive &= tokens != lm.tokenizer.eos_token_id
        if not alive.any():
            break
        new[alive, i] = tokens[alive]
        step = tokens[:, None]
    return new
