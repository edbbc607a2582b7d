"""A forward pass that can be run again from a site on, with other activations there, at the cost of the later blocks.

The blocks before the site hand on what the last of them gave in the first pass; all else (masks, positions, the way
from the stream to the logits) is the model's own code. They do so only as long as the one pass that needs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sae_tools.models.lm import LanguageModel, Patch
from sae_tools.models.sites import Site


class Replay:
    """One pass over (batch, context) ids, and the means to repeat its end."""

    @torch.no_grad()
    def __init__(self, lm: LanguageModel, site: Site, ids: Tensor) -> None:
        self.lm, self.ids = lm, ids
        self._before = _blocks_before(lm, site)
        self._stream: Any = None
        acts: list[Tensor] = []

        def look(found: Tensor) -> Tensor:
            acts.append(found)
            return found

        with self._kept():
            self.logits = lm.logits(ids, Patch(site, look))
            """(batch, context, d_vocab)"""
        self.acts = acts[0]
        """(batch, context, d_in) at the site"""

    def logits_with(self, patch: Patch) -> Tensor:
        """(batch, context, d_vocab) logits of the same pass, patched at the site."""
        with ExitStack() as undo:
            for block in self._before:
                undo.enter_context(_answering(block, self._stream))
            return self.lm.logits(self.ids, patch)

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep what the last block before the site hands on while the block lasts."""
        if not self._before:
            yield
            return

        def keep(_: nn.Module, __: Any, output: Any) -> None:
            self._stream = output

        handle = self._before[-1].register_forward_hook(keep)
        try:
            yield
        finally:
            handle.remove()


def _blocks_before(lm: LanguageModel, site: Site) -> list[nn.Module]:
    """The blocks that end before the site; none in a family whose blocks may hand on more than the stream."""
    if lm.family is None or site.layer is None:
        return []
    first = site.layer + (site.kind == "hook_resid_post")
    return [lm.model.get_submodule(f"{lm.family.blocks}.{i}") for i in range(first)]


@contextmanager
def _answering(block: nn.Module, output: Any) -> Iterator[None]:
    """Let a block answer `output` to any input while the block lasts."""
    own = block.__dict__.get("forward")
    block.forward = lambda *_, **__: output
    try:
        yield
    finally:
        del block.forward
        if own is not None:
            block.forward = own
