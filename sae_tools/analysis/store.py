"""The tables that the features stage wrote, as the page and the reports read them: without models or SAEs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from sae_tools.common.artifacts import verify


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


class FeatureStore:
    """A folder of the features stage."""

    def __init__(
        self, about: dict[str, Any], table: pd.DataFrame, examples: pd.DataFrame, folder: Path | None = None
    ) -> None:
        self.about, self.table, self._folder = about, table, folder
        self._examples = examples.set_index("feature")

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Read a folder.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        about = verify(folder)
        return cls(
            about, pd.read_parquet(folder / "features.parquet"), pd.read_parquet(folder / "examples.parquet"), folder
        )

    @cached_property
    def gallery(self) -> dict[str, Any]:
        """Features worth showing: `concepts`, and `steering` with a text of each; empty where none were chosen."""
        path = self._folder / "gallery.json" if self._folder else None
        return json.loads(path.read_text()) if path and path.is_file() else {}

    def row(self, feature: int) -> dict[str, Any]:
        """Everything known of one feature, by column."""
        return dict(self.table.loc[feature])

    def examples(self, feature: int) -> list[Example]:
        """Examples of one feature: the top ones, strongest first, then from the highest to the lowest quarter."""
        if feature not in self._examples.index:
            return []
        rows = self._examples.loc[[feature]]
        return [
            Example(r.band, r.activation, r.ids.tolist(), r.values_.tolist(), r.position)
            for r in rows.rename(columns={"values": "values_"}).itertuples()
        ]
