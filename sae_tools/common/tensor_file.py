"""A safetensors file written while its rows come, in any order: no tensor is ever whole in memory."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from sae_tools.common.formats import ITEM_SIZES, Spec


class TensorFile:
    """A safetensors file in the making, of tensors whose types and shapes are known.

    Its bytes are those of `safetensors.torch.save_file`, once every row was put in.
    """

    def __init__(self, file: BinaryIO, specs: Mapping[str, Spec]) -> None:
        """Write the header to an empty, seekable file."""
        header: dict[str, dict[str, Any]] = {}
        end = 0
        # The library's order: wide types first, so that all are aligned.
        for name, spec in sorted(specs.items(), key=lambda item: (-ITEM_SIZES[item[1].dtype], item[0])):
            begin, end = end, end + math.prod(spec.shape) * ITEM_SIZES[spec.dtype]
            header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        file.write(len(text).to_bytes(8, "little") + text)
        self.file = file
        self.starts = {name: 8 + len(text) + entry["data_offsets"][0] for name, entry in header.items()}

    def put(self, name: str, place: int, row: np.ndarray) -> None:
        """Write a row of a tensor, little-endian and of its type, at its place."""
        self.file.seek(self.starts[name] + place * row.nbytes)
        self.file.write(row.tobytes())
