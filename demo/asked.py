"""What the page's address asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from demo.limits import Refused

T = TypeVar("T")


class Asked:
    """The address' `?name=value` pairs. What cannot be honoured is left out, and told in `problems`."""

    def __init__(self, query: Mapping[str, str]) -> None:
        self._query = query
        self.problems: list[str] = []

    def get(self, name: str, read: Callable[[Any], T], otherwise: T) -> T:
        """`read` of the value called `name`; `otherwise` where there is none or `read` refuses it."""
        if name not in self._query:
            return otherwise
        try:
            return read(self._query[name])
        except Refused as refused:
            self.problems.append(f"In the address: {refused}")
            return otherwise


def numeral(value: str) -> object:
    """A whole number written in digits as a number; all else as it is, for `limits` to refuse."""
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 12 else value
