"""Labelled sentences for probing, from stories: `python -m assets.probes stories.parquet assets/probes`.

direct_speech   is something said in the sentence? The quotation marks that tell it are taken out.
girl_or_boy     is it about a girl or a boy? The story says so once; the sentence has the name, and no word that tells.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

N_STORIES = 440
"""The first ones, which the default holds out."""
MOST = 400
"""Sentences of each class."""
TELLING = re.compile(
    r"\b(she|her|hers|herself|he|him|his|himself|girl|boy|sister|brother|daughter|son)\b", re.IGNORECASE
)


def sentences(story: str) -> Iterator[str]:
    """Sentences of four to forty words; a quotation stays with the words around it."""
    for line in story.split("\n"):
        for sentence in re.findall(r'(?:"[^"]*"|[^".!?])+[.!?]?', line):
            if 4 <= len(sentence.split()) <= 40:
                yield sentence.strip()


def direct_speech(stories: list[str]) -> Iterator[tuple[str, str]]:
    for story in stories:
        for sentence in sentences(story):
            if sentence.count('"') % 2 == 0:
                yield sentence.replace('"', ""), "speech" if '"' in sentence else "none"


def girl_or_boy(stories: list[str]) -> Iterator[tuple[str, str]]:
    for story in stories:
        if found := re.search(r"\b(girl|boy) named (\w+)", story):
            kind, name = found.groups()
            for sentence in sentences(story):
                if re.search(rf"\b{name}\b", sentence) and not TELLING.search(sentence) and '"' not in sentence:
                    yield sentence, kind


def balanced(rows: Iterator[tuple[str, str]]) -> pd.DataFrame:
    """Equally many of each class, at most `MOST`, each text once, drawn and in an order drawn by a fixed seed."""
    table = pd.DataFrame(rows, columns=["prompt", "target"]).drop_duplicates("prompt")
    n = min(MOST, table["target"].value_counts().min())
    return table.groupby("target").sample(n, random_state=0).sample(frac=1, random_state=0)


def main(text: Path, out: Path) -> None:
    stories = pd.read_parquet(text)["text"].head(N_STORIES).tolist()
    out.mkdir(parents=True, exist_ok=True)
    for make in (direct_speech, girl_or_boy):
        table = balanced(make(stories))
        table.to_csv(out / f"{make.__name__}.csv", index=False)
        print(f"{make.__name__}: {table['target'].value_counts().to_dict()}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
