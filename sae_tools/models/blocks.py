"""Documents laid end to end and cut into blocks of equal size that each begin with the begin token."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm


class Cutter:
    """Cuts what it is given into blocks, and keeps the rest for the next one."""

    def __init__(self, size: int, begin: int | None, keeps_begin: bool = False) -> None:
        """`begin` is the id that opens a block. With `keeps_begin` one that stands in its place already serves."""
        self.size, self.begin, self.keeps_begin = size, begin, keeps_begin
        self.rest: np.ndarray | None = None

    def add(self, document: np.ndarray) -> list[np.ndarray]:
        """(k, size) blocks that (k, n) ids, and what a mask says of each, complete; a begin token is in no mask."""
        rest = document if self.rest is None else np.concatenate([self.rest, document], axis=1)
        opening = np.zeros((len(rest), 1), dtype=np.int32)
        opening[0] = self.begin or 0
        blocks: list[np.ndarray] = []
        at = 0
        while True:
            opened = self.begin is None or (self.keeps_begin and rest[0, at : at + 1].tolist() == [self.begin])
            end = at + self.size - (not opened)
            if end > rest.shape[1]:
                break
            blocks.append(rest[:, at:end] if opened else np.concatenate([opening, rest[:, at:end]], axis=1))
            at = end
        self.rest = rest[:, at:]
        return blocks


def cut_blocks(documents: Iterator[np.ndarray], cutter: Cutter, count: int, bar: tqdm[None]) -> Iterator[np.ndarray]:
    """Up to `count` blocks, of as few documents as they need."""
    while count:
        document = next(documents, None)
        if document is None:
            return
        for block in cutter.add(document)[:count]:
            count -= 1
            bar.update(cutter.size)
            yield block
