"""Which positions of token blocks give an activation to train on."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import Tokens


class Positions:
    """A boolean mask, shaped as the train blocks (n_blocks, context), made for those that are asked for alone."""

    def __init__(self, dataset: Dataset, tokens: Tokens, is_text: Callable[[Tensor], Tensor]) -> None:
        """`is_text` tells of ids which are no special tokens; it is not asked where the tokens have a mask."""
        self.tokens, self.is_text = tokens, is_text
        n, size = tokens.train.shape
        self.chosen: Tensor | None = None
        if dataset.positions == "random":
            self.chosen = torch.randint(size, (n,), generator=torch.Generator().manual_seed(dataset.seed))
        elif dataset.positions != "all":
            self.chosen = torch.tensor(size // 2 if dataset.positions == "middle" else size - 1).expand(n)

    def __len__(self) -> int:
        return len(self.tokens.train)

    def __getitem__(self, blocks: slice) -> Tensor:
        ids, mask = self.tokens.train[blocks], self.tokens.train_mask
        found = self.is_text(ids) if mask is None else mask[blocks]
        if self.chosen is not None:
            found = found & (torch.arange(ids.shape[1]) == self.chosen[blocks, None])
        return found
