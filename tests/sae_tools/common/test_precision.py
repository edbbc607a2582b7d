"""Which precision is chosen, with the machine's speed made up."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from sae_tools.common import precision
from sae_tools.common.precision import GAIN, product_dtype

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """The choice is made once a process."""
    precision._fastest.cache_clear()
    yield
    precision._fastest.cache_clear()


def make_bfloat16(faster: float, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    timed: list[torch.dtype] = []

    def seconds(dtype: torch.dtype) -> float:
        timed.append(dtype)
        return 1.0 if dtype == torch.float32 else 1.0 / faster

    monkeypatch.setattr(precision, "_seconds", seconds)
    return timed


@pytest.mark.parametrize(
    ("faster", "dtype"),
    [(0.005, torch.float32), (0.99 * GAIN, torch.float32), (1.01 * GAIN, torch.bfloat16), (3.0, torch.bfloat16)],
)
def test_left_open_the_faster_one_is_taken(faster: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = make_bfloat16(faster, monkeypatch)
    assert product_dtype("auto", CPU) == product_dtype("auto", CPU) == dtype
    assert len(timed) == 2, "timed once for each"


def test_what_is_asked_for_is_taken_without_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = make_bfloat16(3.0, monkeypatch)
    assert product_dtype("float32", CPU) == torch.float32
    assert product_dtype("bfloat16", CPU) == torch.bfloat16
    assert not timed


def test_apple_s_gpus_keep_float32() -> None:
    assert product_dtype("auto", torch.device("mps")) == torch.float32
