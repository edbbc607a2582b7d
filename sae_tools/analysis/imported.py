"""Labels that people or language models wrote, read from files.

    labels.csv            columns feature and label; also source (a name, "person" by default) and score, if there are
    labels.json           {"12": "label", ...}, or a list of Neuronpedia's explanations
    batch-0.jsonl(.gz)    Neuronpedia's export: a row an explanation, with index, description, explanationModelName
    layers.2_latent12.txt Delphi's explanation of latent 12, a JSON string
    a folder              all of these in it; of Delphi's run also scores/detection, of which the F1 is the score

A label is text of unknown origin: it is kept as it is, on one line, and escaped where it is shown.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_tools.common.errors import InputError
from sae_tools.models.sources import check_labels

PERSON = "person"
MOST_CHARACTERS = 500
"""A longer label is cut."""
LATENT = re.compile(r"(?:^|_latent|_feature)(\d+)$")
"""The end of Delphi's names, or a bare number."""
KINDS = (".csv", ".json", ".jsonl", ".jsonl.gz", ".txt")


@dataclass(frozen=True)
class Label:
    text: str
    source: str
    """"person", or the name of the model or tool that wrote it."""
    score: float | None = None
    """How good its author found it, 0 to 1, where that is told."""


def read_labels(path: Path, d_sae: int) -> dict[int, Label]:
    """Labels by feature, from a file or a folder; a person's goes before a model's, else the first one found stays.

    Raises:
        InputError: naming the file and the first row that cannot be used.
    """
    check_labels(str(path))
    files = [path] if path.is_file() else _files(path)
    if not files:
        raise InputError(f"labels {str(path)!r} hold no file of a known kind; use one of: {', '.join(KINDS)}.")
    labels: dict[int, Label] = {}
    for file in files:
        for where, feature, label in _read(file):
            if not 0 <= feature < d_sae:
                raise InputError(f"{where}: feature is {feature}, but the SAE has features 0 to {d_sae - 1}.")
            if label.text and (feature not in labels or (label.source == PERSON != labels[feature].source)):
                labels[feature] = label
    return labels


def _files(folder: Path) -> list[Path]:
    """Those that hold labels, in the order of their names: not what Delphi keeps beside its explanations."""
    root = folder / "explanations" if (folder / "explanations").is_dir() else folder
    files = (path for path in sorted(root.iterdir()) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if _kind(path) and (_kind(path) != ".txt" or LATENT.search(path.stem))]


def _kind(path: Path) -> str | None:
    return next((kind for kind in KINDS if path.name.endswith(kind)), None)


Rows = Iterator[tuple[str, int, Label]]
"""Where a label stands, of which feature it is, and what it is."""


def _read(path: Path) -> Rows:
    readers = {".csv": _csv, ".json": _json, ".jsonl": _lines, ".jsonl.gz": _lines, ".txt": _delphi}
    kind = _kind(path)
    if kind is None:
        raise InputError(f"labels {str(path)!r} are of no known kind; use one of: {', '.join(KINDS)}.")
    try:
        raw = gzip.decompress(path.read_bytes()) if kind.endswith(".gz") else path.read_bytes()
        yield from readers[kind](path, raw.decode("utf-8-sig"))
    except (OSError, EOFError, ValueError, RecursionError, csv.Error, zlib.error) as error:
        raise InputError(
            f"labels {str(path)!r} cannot be read: {' '.join(str(error).split())}; give the file as it was made."
        ) from None


def _csv(path: Path, text: str) -> Rows:
    rows = csv.DictReader(io.StringIO(text))
    for column in ("feature", "label"):
        if column not in (rows.fieldnames or ()):
            have = ", ".join(rows.fieldnames or ()) or "none"
            raise InputError(f"labels {str(path)!r} have no column {column!r}; they have: {have}.")
    for row in rows:
        where = f"{path}, line {rows.line_num}"
        yield where, _feature(row["feature"], where), _label(row["label"], row.get("source"), row.get("score"), where)


def _json(path: Path, text: str) -> Rows:
    values = json.loads(text)
    if isinstance(values, dict) and isinstance(values.get("explanations"), list):
        values = [{"index": values.get("index"), **row} for row in values["explanations"]]  # one of their features
    if isinstance(values, list):
        yield from _explanations(path, values)
        return
    if not isinstance(values, dict):
        raise ValueError(f"it holds {type(values).__name__}, but features with labels are expected")
    for name, label in values.items():
        where = f"{path}, {name!r}"
        yield where, _feature(name, where), _label(label, path.stem, None, where)


def _lines(path: Path, text: str) -> Rows:
    yield from _explanations(path, (json.loads(line) for line in text.splitlines() if line.strip()))


def _explanations(path: Path, rows: Iterable[Any]) -> Rows:
    """Neuronpedia's."""
    for i, row in enumerate(rows, 1):
        where = f"{path}, row {i}"
        if not isinstance(row, dict) or "index" not in row or "description" not in row:
            raise InputError(f"{where} has no index or no description; give Neuronpedia's explanations.")
        source = row.get("explanationModelName") or row.get("typeName") or "Neuronpedia"
        yield where, _feature(row["index"], where), _label(row["description"], source, None, where)


def _delphi(path: Path, text: str) -> Rows:
    yield str(path), _feature(path.stem, str(path)), _label(json.loads(text), "Delphi", _delphi_score(path), str(path))


def _delphi_score(path: Path) -> float | None:
    """F1 of Delphi's detection: which of some texts does a judge who knows the explanation alone take for its own?"""
    scores = path.parent.parent / "scores" / "detection" / path.name
    if path.parent.name != "explanations" or not scores.is_file():
        return None
    rows = json.loads(scores.read_text())
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{scores} holds no list of answers")
    rows = [row for row in rows if row.get("prediction") is not None]
    truth, said = ([bool(row.get(name)) for row in rows] for name in ("activating", "prediction"))
    hits = sum(t and s for t, s in zip(truth, said, strict=True))
    return 2 * hits / (sum(truth) + sum(said)) if any(truth) or any(said) else None


def _feature(value: Any, where: str) -> int:
    found = LATENT.search(str(value).strip())
    if isinstance(value, bool) or not found:
        raise InputError(f"{where}: feature is {value!r}, but the number of a feature is expected.")
    return int(found[1][:18])


def _label(text: Any, source: Any, score: Any, where: str) -> Label:
    if not isinstance(text, str):
        raise InputError(f"{where}: label is {text!r}, but text is expected.")
    words = " ".join(text.split())
    shown = words if len(words) <= MOST_CHARACTERS else words[: MOST_CHARACTERS - 1] + "…"
    return Label(shown, " ".join(str(source or "").split())[:100] or PERSON, _score(score, where))


def _score(value: Any, where: str) -> float | None:
    if value is None or not str(value).strip():
        return None
    try:
        score = float(value)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise InputError(f"{where}: score is {value!r}, but a number from 0 to 1 is expected.")
    return score
