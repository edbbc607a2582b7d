"""Strict reading of files that someone else may have made: JSON without surprises, and safetensors headers.

Python's `json` takes NaN, 1e999 and a key given twice, and safetensors a tensor given twice: here they are refused.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

ITEM_SIZES = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "F16": 2, "BF16": 2, "I32": 4, "F32": 4, "I64": 8, "F64": 8}
HEADER_LIMIT = 100_000_000  # the library's own


class Spec(NamedTuple):
    """A tensor as a safetensors header announces it."""

    dtype: str
    shape: tuple[int, ...]


def strict_json(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is not JSON, or holds a key twice, or a number that is not finite.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def tensor_specs(path: Path) -> dict[str, Spec]:
    """The tensors of a safetensors file by name, from its header, which must describe the file to its last byte.

    Raises:
        ValueError: it does not.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise ValueError(f"its header would have {length} bytes in a file of {size}")
        header = strict_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is not a mapping")
    spans = {name: _span(name, entry) for name, entry in header.items() if name != "__metadata__"}
    end = 0
    for begin, stop, _ in sorted(spans.values()):
        if begin != end:
            raise ValueError(f"its tensors leave a gap or overlap at byte {end}")
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"its tensors have {end} bytes, but {size - 8 - length} follow the header")
    return {name: spec for name, (_, _, spec) in spans.items()}


def _span(name: str, entry: Any) -> tuple[int, int, Spec]:
    """First byte, last byte + 1, and kind of a tensor."""
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if dtype in ITEM_SIZES:
            counts = all(type(n) is int and n >= 0 for n in shape)
            if counts and end - begin == math.prod(shape) * ITEM_SIZES[dtype]:
                return begin, end, Spec(dtype, tuple(shape))
    raise ValueError(f"its header describes tensor {name!r} as {str(entry)[:200]}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has the key {next(name for name in names if names.count(name) > 1)!r} twice")
    return mapping


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it has the number {text}, which is not finite")
    return number
