"""The tables of the features stage: how they are written, and read as the page and the reports do, a feature at a time.

    features.parquet   a row a feature, in order: the columns of one value, all read on opening
    lists.parquet      a row a feature: the columns of many values
    examples.parquet   rows of `Example` by feature
    gallery.json       the features to show first, as `gallery` chose them

Lists and examples lie in small row groups and are read when asked for: that takes milliseconds.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sae_tools.common.artifacts import verify

FEATURES, LISTS, EXAMPLES, GALLERY = "features.parquet", "lists.parquet", "examples.parquet", "gallery.json"
ROWS, EXAMPLE_ROWS = 256, 2048
"""Rows in a row group."""
REMEMBERED = 32
"""Row groups of lists that stay in memory."""


@dataclass(frozen=True)
class Example:
    band: str
    """"top", or the quarter of the feature's range that the activation lies in"""
    activation: float
    ids: list[int]
    """The tokens around the one where the feature fires."""
    values: list[float]
    """The feature's activation at each of them."""
    position: int
    """Which of them is the one."""


def write(folder: Path, table: pd.DataFrame, examples: pd.DataFrame, gallery: dict[str, Any]) -> None:
    """Write a features' table, its index feature from 0 on, their examples and their gallery into a folder."""
    (folder / GALLERY).write_text(json.dumps(gallery, indent=1, ensure_ascii=False) + "\n")
    features = pa.Table.from_pandas(table.rename_axis("feature").reset_index(), preserve_index=False)
    lists = [field.name for field in features.schema if pa.types.is_nested(field.type)]
    rows = pa.Table.from_pandas(examples.sort_values("feature", kind="stable"), preserve_index=False)
    for name, part, size in (
        (FEATURES, features.drop_columns(lists), None),
        (LISTS, features.select(["feature", *lists]), ROWS),
        (EXAMPLES, rows, EXAMPLE_ROWS),
    ):
        pq.write_table(part, folder / name, row_group_size=size, compression="zstd")


class FeatureStore:
    """A folder of the features stage."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self._folder, self.about = folder, about
        self.table = pd.read_parquet(folder / FEATURES).set_index("feature")
        """The columns of one value a feature; index feature"""
        self._groups: OrderedDict[int, pd.DataFrame] = OrderedDict()
        self._reading = threading.Lock()

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Open a folder.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        return cls(Path(folder), verify(folder))

    def row(self, feature: int) -> dict[str, Any]:
        """All columns of one feature, by name; lists are arrays.

        Raises:
            KeyError: there is no such feature.
        """
        lists = self._group(self.table.index.get_loc(feature) // ROWS)
        values: dict[str, Any] = self.table.loc[feature].to_dict() | lists.loc[feature].to_dict()
        return values

    def column(self, name: str) -> pa.Array | pa.ChunkedArray | None:
        """One column of all features, in order; None where the stage did not make it."""
        if name in self.table.columns:
            return pa.array(self.table[name])
        with self._reading:
            return self._lists.read([name])[name] if name in self._lists.schema_arrow.names else None

    def _group(self, group: int) -> pd.DataFrame:
        """The lists of a row group, index feature."""
        with self._reading:
            if group not in self._groups:
                self._groups[group] = self._lists.read_row_group(group).to_pandas().set_index("feature")
                if len(self._groups) > REMEMBERED:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(group)
            return self._groups[group]

    @cached_property
    def gallery(self) -> dict[str, Any]:
        """`concepts` and `steering`, as `gallery.gallery` makes them; empty where none were chosen."""
        path = self._folder / GALLERY
        found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
        return found

    @cached_property
    def _lists(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._folder / LISTS)

    @cached_property
    def _examples(self) -> pq.ParquetFile:
        return pq.ParquetFile(self._folder / EXAMPLES)

    @cached_property
    def _bounds(self) -> np.ndarray:
        """(row groups, 2) the first and last feature in each row group of the examples."""
        about = self._examples.metadata
        column = self._examples.schema_arrow.names.index("feature")
        found = (about.row_group(i).column(column).statistics for i in range(about.num_row_groups))
        return np.array([(part.min, part.max) if part else (0, -1) for part in found], np.int64).reshape(-1, 2)

    def examples(self, feature: int) -> list[Example]:
        """Examples of one feature: the top ones, strongest first, then from the highest to the lowest quarter."""
        groups = np.flatnonzero((self._bounds[:, 0] <= feature) & (feature <= self._bounds[:, 1])).tolist()
        if not groups:
            return []
        with self._reading:
            found = self._examples.read_row_groups(groups)
        rows = found.filter(pc.equal(found["feature"], feature)).select(Example.__dataclass_fields__)
        return [Example(**row) for row in rows.to_pylist()]
