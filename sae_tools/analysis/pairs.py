"""Pairs of texts, with something and without it, from what a person typed or from a file."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_tools.common.errors import InputError

FORMATS = 'give JSON lines with "positive" and "negative", a list of such, or CSV of two columns'
CAA = ("question", "answer_matching_behavior", "answer_not_matching_behavior")


@dataclass(frozen=True)
class Pair:
    """One text with the thing looked for, and one without."""

    positive: str
    negative: str


def read_pairs(source: str | Path) -> list[Pair]:
    """Pairs from a file (a `Path`) or from the text itself (a `str`).

    JSON lines or a JSON list of objects with `positive` and `negative`, or with the keys of contrastive activation
    addition (CAA: question, answer_matching_behavior, answer_not_matching_behavior), which become two texts of the form
    "Input: question\\nResponse: answer", that which CAA gives a model without a chat format (github.com/nrimsky/CAA,
    utils/tokenize.py); or CSV of two columns, the positive first unless a header says otherwise.

    Raises:
        InputError: it can't be read, holds no pair, or a pair lacks a text; names the line (of a JSON list: the entry).
    """
    text = _read(source) if isinstance(source, Path) else source
    start = text.lstrip("\ufeff \t\r\n")
    rows = _of_list(start) if start.startswith("[") else _of_lines(text) if start.startswith("{") else _of_csv(text)
    pairs = []
    for where, positive, negative in rows:
        for name, side in (("positive", positive), ("negative", negative)):
            if not isinstance(side, str) or not side.strip():
                raise InputError(f"{where}: the {name} text is {side!r}; give both texts of each pair.")
            if any("\ud800" <= character <= "\udfff" for character in side):
                raise InputError(f"{where}: the {name} text holds half of a surrogate pair; remove that character.")
        pairs.append(Pair(positive, negative))
    if not pairs:
        raise InputError(f"no pair of texts was given; {FORMATS}.")
    return pairs


Row = tuple[str, Any, Any]
"""Where it stands, the positive, the negative."""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text in UTF-8"
        raise InputError(f"pairs file {str(path)!r} cannot be read: {reason}; give a .jsonl, .json or .csv.") from None


def _of_list(text: str) -> Iterator[Row]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the list of pairs is not JSON: {error}; {FORMATS}.") from None
    for number, entry in enumerate(entries, 1):
        yield _of_object(f"entry {number}", entry)


def _of_lines(text: str) -> Iterator[Row]:
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.strip():
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError):
                raise InputError(f"line {number} is not a JSON object; {FORMATS}.") from None
            yield _of_object(f"line {number}", entry)


def _of_object(where: str, entry: object) -> Row:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where} is not a JSON object; {FORMATS}.")
    if CAA[0] in entry:
        question, matching, other = (entry.get(key) for key in CAA)
        return where, _answered(question, matching), _answered(question, other)
    return where, entry.get("positive"), entry.get("negative")


def _answered(question: object, answer: object) -> str | None:
    """The text that CAA makes of a question and an answer; None where there is no answer."""
    return f"Input: {str(question).strip()}\nResponse: {answer.strip()}" if isinstance(answer, str) else None


def _of_csv(text: str) -> Iterator[Row]:
    reader = csv.reader(text.removeprefix("\ufeff").splitlines(keepends=True), skipinitialspace=True)
    swapped = False
    try:
        for row in reader:
            where = f"line {reader.line_num}"
            header = [cell.strip().lower() for cell in row]
            if reader.line_num == 1 and sorted(header) == ["negative", "positive"]:
                swapped = header[0] == "negative"
            elif any(row):
                if len(row) != 2:
                    raise InputError(
                        f"{where} has {len(row)} columns, but two texts are expected; "
                        'put "quotes" around a text that holds a comma.'
                    )
                first, second = row
                yield (where, second, first) if swapped else (where, first, second)
    except csv.Error as error:
        raise InputError(f"line {reader.line_num} is not CSV: {error}; {FORMATS}.") from None
