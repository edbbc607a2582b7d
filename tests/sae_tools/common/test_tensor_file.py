"""Rows put in any order give the bytes that safetensors itself writes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sae_tools.common.formats import Spec, tensor_specs
from sae_tools.common.tensor_file import TensorFile


@pytest.mark.parametrize("n", [0, 1, 7])
def test_the_bytes_are_those_of_the_library(tmp_path: Path, n: int) -> None:
    tensors = {
        "z_mask": torch.rand(n, 5) < 0.5,
        "train": torch.randint(-(2**31), 2**31 - 1, (n, 5), dtype=torch.int32),
        "held_out": torch.randint(2**31 - 1, (3, 5), dtype=torch.int32),
        "wide": torch.randn(2, 3, 4).double(),
    }
    save_file(tensors, tmp_path / "expected")
    rows = [(name, place) for name, tensor in tensors.items() for place in range(len(tensor))]
    random.Random(0).shuffle(rows)
    with (tmp_path / "found").open("wb") as raw:
        file = TensorFile(raw, tensor_specs(tmp_path / "expected"))
        for name, place in rows:
            file.put(name, place, tensors[name][place].numpy())
    assert (tmp_path / "found").read_bytes() == (tmp_path / "expected").read_bytes()


def test_a_file_that_lacks_rows_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    with (tmp_path / "x").open("wb") as raw:
        file = TensorFile(raw, {"a": Spec("I32", (4, 5))})
        file.put("a", 1, torch.zeros(5, dtype=torch.int32).numpy())
    with pytest.raises(ValueError, match="its tensors have 80 bytes, but 40 follow the header"):
        tensor_specs(tmp_path / "x")
