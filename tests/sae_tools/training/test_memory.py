"""The system's own count of fresh pages tells whether freed memory is used again."""

from __future__ import annotations

import resource
import sys

import pytest
import torch

from sae_tools.training import memory

SIZE = 2**28


def fresh_pages() -> int:
    """While a block of SIZE bytes is made and dropped four times."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.ones(SIZE, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
def test_blocks_are_used_again_while_kept_and_returned_after() -> None:
    with memory.kept():
        fresh_pages()
        kept = fresh_pages()
    assert 4 * kept < fresh_pages()


def test_without_mallopt_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with memory.kept():
        torch.ones(8)
