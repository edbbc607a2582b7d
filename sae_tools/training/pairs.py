"""Rows of two models on the same tokens, side by side: what a crosscoder trains on."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sae_tools.activations.shards import Shards
from sae_tools.common.errors import InputError
from sae_tools.training.train import norm_scale

SAMPLE = 65_536
"""Rows from which the scales are taken."""


class Pairs:
    """Two folders of shards, row for row of the same token.

    Each model's half of a row is multiplied by its `scales` entry, √d / mean ‖x‖: neither model counts for more.
    """

    def __init__(self, base: Shards, finetuned: Shards, seed: int) -> None:
        """Take the scales from a sample that `seed` draws.

        Raises:
            InputError: the folders can't be of equal tokens, or differ in width.
        """
        if base.sizes != finetuned.sizes:
            raise InputError(
                f"the shards hold {base.sizes} rows of the base and {finetuned.sizes} of the finetuned model, but rows "
                "of equal tokens are expected; harvest both anew from the same tokens."
            )
        if base.d_in != finetuned.d_in:
            raise InputError(
                f"activations have width {base.d_in} in the base and {finetuned.d_in} in the finetuned model; give a "
                "finetune of the base model."
            )
        self.halves, self.d, self.n_rows = (base, finetuned), base.d_in, base.n_rows
        self.scales = (norm_scale(base.sample(SAMPLE, seed)), norm_scale(finetuned.sample(SAMPLE, seed)))

    def batches(self, batch_size: int, n_tokens: int, seed: int, first: int = 0) -> Iterator[Tensor]:
        """(batch_size, 2d) scaled rows [base ; finetuned], in the order of `Shards.batches`, from batch `first` on."""
        parts = (shards.batches(batch_size, n_tokens, seed, first) for shards in self.halves)
        for rows in zip(*parts, strict=True):
            yield torch.cat([scale * part for scale, part in zip(self.scales, rows, strict=True)], dim=1)
