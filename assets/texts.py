"""Texts that the embedded models learn from: read, split, compared with each other and with what was sampled."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

HELD_OUT = 20  # every 20th document of the first text is never trained on
SHINGLE = 8  # words; a document of another text that has a fifth of a held-out one's runs of 8 words is a near copy


def read_texts(path: Path) -> list[str]:
    """Documents of a `.jsonl`, `.jsonl.gz` or `.txt` file; fewer than 20 are cut into pieces of 1,000 characters."""
    if path.suffix == ".txt":
        texts = [path.read_text()]
    else:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as lines:
            texts = [json.loads(line)["text"] for line in lines]
    if len(texts) < 20:
        texts = [piece for text in texts for piece in pieces(text)]
    return [text for text in texts if text.strip()]


def pieces(text: str, size: int = 1000) -> Iterator[str]:
    """Cut at blank lines, so that a speech stays whole; joined again they give back the text."""
    piece = ""
    for paragraph in text.split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) >= size:
            yield piece
            piece = ""
    if piece:
        yield piece


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Training and held-out documents."""
    fit = [text for i, text in enumerate(texts, 1) if i % HELD_OUT]
    return fit, texts[HELD_OUT - 1 :: HELD_OUT]


def training_texts(paths: list[Path]) -> tuple[list[str], list[str]]:
    """Training and held-out documents: the first file is split, the others only add to the training documents.

    Documents of the others that are held out, or near copies of those, are left out.
    """
    fit, held_out = split(read_texts(paths[0]))
    owners: dict[int, list[int]] = {}
    for i, text in enumerate(held_out):
        for shingle in _shingles(text):
            owners.setdefault(shingle, []).append(i)
    sizes = [len(_shingles(text)) for text in held_out]

    def is_copy(text: str) -> bool:
        shared = Counter(i for shingle in _shingles(text) for i in owners.get(shingle, ()))
        return any(count > sizes[i] / 5 for i, count in shared.items())

    for path in paths[1:]:
        texts = read_texts(path)
        kept = [text for text in texts if not is_copy(text)]
        print(f"{path.name}: {len(texts) - len(kept)} of {len(texts)} documents are near a held-out one, left out")
        fit += kept
    return fit, held_out


def _shingles(text: str) -> set[int]:
    words = re.findall(r"[a-z']+", text.lower())
    return {hash(tuple(words[i : i + SHINGLE])) for i in range(max(len(words) - SHINGLE + 1, 1))}


def ngrams(ids: np.ndarray, n: int) -> np.ndarray:
    """(len - n + 1,) rolling 64-bit hashes of every n consecutive ids."""
    if len(ids) < n:
        return np.zeros(0, dtype=np.uint64)
    with np.errstate(over="ignore"):
        out = np.zeros(len(ids) - n + 1, dtype=np.uint64)
        for i in range(n):
            out = out * np.uint64(6364136223846793005) + ids[i : len(ids) - n + 1 + i].astype(np.uint64) + np.uint64(1)
    return out


def contains(ordered: np.ndarray, values: np.ndarray) -> bool:
    """Whether any of `values` is among `ordered`, by bisection."""
    places = np.searchsorted(ordered, values).clip(max=len(ordered) - 1)
    return bool((ordered[places] == values).any())


def unknown_words(texts: list[str], training: list[str]) -> float:
    """Share of the words of `texts` that occur nowhere in `training`: runs of letters, whatever their case."""
    words = [word for text in texts for word in re.findall(r"[^\W\d_]+", text.lower())]
    known = {word for text in training for word in re.findall(r"[^\W\d_]+", text.lower())}
    return sum(word not in known for word in words) / max(len(words), 1)
