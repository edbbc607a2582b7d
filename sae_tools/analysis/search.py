"""Features found by what they mean: by words of their label, words that they fire on, tokens that they make likelier.

Everything is looked up in the features' tables, 100,000 features in a fraction of a second; no model is touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sae_tools.analysis.store import FeatureStore

Where = Literal["anywhere", "label", "fires", "promotes"]
Spellings = Callable[[str], Sequence[int]]
MATCH = "match"
PARTLY = 0.5
"""What a word inside another one counts, where the whole word counts 1; by label only."""


@dataclass(frozen=True)
class Wanted:
    """What is looked for; an empty `text` is met by every feature that is alive."""

    text: str = ""
    """Words that must all be met, each in one of the ways that `where` allows"""
    where: Where = "anywhere"
    least: Mapping[str, float] = field(default_factory=dict)
    """Smallest value by column of the features' table; a feature without a value does not meet it."""
    most: Mapping[str, float] = field(default_factory=dict)
    sort: str = MATCH
    """"match" or a column, the largest first"""
    rising: bool = False
    """Whether the smallest comes first."""


@dataclass(frozen=True)
class Entries:
    """A column of lists, flat: what each entry is, whose it is, and its weight."""

    feature: np.ndarray
    """(n,) place of its feature in the table"""
    code: np.ndarray
    """(n,) index into `names`"""
    names: np.ndarray
    """The distinct entries."""
    weight: np.ndarray
    """(n,)"""

    @classmethod
    def of(cls, entries: pa.Array, weights: pa.Array) -> Entries:
        """From two list columns of equal lengths."""
        entries, weights = (part.combine_chunks() if hasattr(part, "chunks") else part for part in (entries, weights))
        coded = entries.flatten().dictionary_encode()
        feature = pc.list_parent_indices(entries).to_numpy(zero_copy_only=False)
        code = coded.indices.to_numpy(zero_copy_only=False)
        names = coded.dictionary.to_numpy(zero_copy_only=False)
        return cls(feature, code, names, weights.flatten().to_numpy(zero_copy_only=False))

    def weights(self, wanted: Sequence[Any], n: int) -> np.ndarray:
        """(n,) the largest weight that each feature gives to one of some entries; 0 where it has none of them."""
        codes = np.flatnonzero(np.isin(self.names, np.asarray(wanted))) if len(wanted) else np.zeros(0, np.int64)
        found = np.zeros(n)
        here = np.isin(self.code, codes)
        np.maximum.at(found, self.feature[here], self.weight[here])
        return found


class Finder:
    """Finds features of one store; its lists are read on the first search that needs them, and kept."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store

    @property
    def table(self) -> pd.DataFrame:
        return self._store.table

    @cached_property
    def label(self) -> pd.Series:
        """Labels in lower case."""
        return self.table["label"].fillna("").astype(str).str.lower()

    @cached_property
    def fires(self) -> Entries | None:
        """Words that features fire on, by their share; None where the features stage kept none."""
        return self._entries(("words", "word_shares"))

    @cached_property
    def promotes(self) -> Entries | None:
        """Ids of tokens that features make likelier: in truth where that was measured, else by their direct effect."""
        return self._entries(("gained_tokens", "gained")) or self._entries(("top_tokens", "top_logits"))

    def _entries(self, names: tuple[str, str]) -> Entries | None:
        entries, weights = (self._store.column(name) for name in names)
        return None if entries is None or weights is None else Entries.of(entries, weights)

    def find(self, wanted: Wanted, spellings: Spellings) -> pd.DataFrame:
        """All features that are alive and meet what is wanted, the best first.

        Columns: `match` (what they are sorted by), `label` (whether a word is in the label), `fires` (share of the
        activation that lies on the words) and `promotes` (by how much their tokens gain); index feature.
        `spellings` gives the ids of the tokens that spell a word.
        """
        table = self.table
        met = table["maximum"].to_numpy() > 0
        total = {name: np.zeros(len(table)) for name in ("label", "fires", "promotes")}
        for word in wanted.text.lower().split():
            ways = self._ways(word, wanted.where, spellings)
            met &= np.any([score > 0 for score in ways.values()], axis=0)
            for name, score in ways.items():
                total[name] += score
        for bounds, low in ((wanted.least, True), (wanted.most, False)):
            for column, bound in bounds.items():
                values = table[column].to_numpy()
                met &= values >= bound if low else values <= bound
        found = pd.DataFrame({MATCH: _match(total), **total}, index=table.index)[met]
        keys = found[MATCH] if wanted.sort == MATCH else table.loc[found.index, wanted.sort]
        order = keys.to_numpy(np.float64)
        order = np.argsort(order if wanted.rising else -order, kind="stable")  # what has no value comes last
        return found.iloc[order].assign(label=lambda rows: rows["label"] > 0)

    def _ways(self, word: str, where: Where, spellings: Spellings) -> dict[str, np.ndarray]:
        """How well each feature meets a word, by way."""
        n, ways = len(self.table), {}
        if where in ("anywhere", "label"):
            ways["label"] = self._in_label(word)
        if where in ("anywhere", "fires"):
            ways["fires"] = self.fires.weights([word], n) if self.fires else np.zeros(n)
        if where in ("anywhere", "promotes"):
            ways["promotes"] = self.promotes.weights(spellings(word), n) if self.promotes else np.zeros(n)
        return ways

    def _in_label(self, word: str) -> np.ndarray:
        """1 where a word stands alone in the label, `PARTLY` where it is part of another one."""
        inside = self.label.str.contains(word, regex=False).to_numpy(bool)
        score = np.where(inside, PARTLY, 0.0)
        alone = [word in _words(text) for text in self.label[inside]]
        score[np.flatnonzero(inside)[alone]] = 1.0
        return score


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text).split()


def _match(total: Mapping[str, np.ndarray]) -> np.ndarray:
    """Label and share of firing as they are; the gain against its largest, at a tenth: it only parts equals."""
    gain = total["promotes"]
    largest = gain.max(initial=0.0)
    return total["label"] + total["fires"] + (0.1 * gain / largest if largest > 0 else 0.0)


def spellings(tokenizer: Any, word: str) -> list[int]:
    """Ids of the tokens that are a word: alone or after a space, as typed, in lower case or with a capital."""
    found = []
    for form in dict.fromkeys((word, word.lower(), word.capitalize(), word.upper())):
        for text in (form, f" {form}"):
            ids = tokenizer.encode(text, add_special_tokens=False)
            found += [ids[-1]] if ids and tokenizer.decode([ids[-1]]).strip() == form.strip() else []
    return list(dict.fromkeys(found))
