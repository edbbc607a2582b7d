"""The tables that the features stage wrote, as the page and the reports read them: without models or SAEs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from sae_tools.common.artifacts import verify

GALLERY = "gallery.json"


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
        self, about: dict[str, Any], table: pd.DataFrame, examples: pd.DataFrame, gallery: dict[str, Any] | None = None
    ) -> None:
        self.about, self.table = about, table
        self.gallery = gallery or {}
        """Features to show first, {"concepts": [...], "steering": [...]}; {} where none were chosen"""
        self._examples = examples.set_index("feature")

    @classmethod
    def open(cls, folder: Path) -> FeatureStore:
        """Read a folder.

        Raises:
            ArtifactError: it is missing or damaged.
        """
        about = verify(folder)
        table, examples = (pd.read_parquet(folder / f"{name}.parquet") for name in ("features", "examples"))
        chosen = folder / GALLERY
        return cls(about, table, examples, json.loads(chosen.read_text()) if chosen.is_file() else None)

    def row(self, feature: int) -> dict[str, Any]:
        """Everything known of one feature, by column."""
        return dict(self.table.loc[feature])

    def column(self, name: str) -> pa.Array | None:
        """One column of all features, a list a feature; None where the stage did not make it."""
        return pa.array(self.table[name]) if name in self.table.columns else None

    def examples(self, feature: int) -> list[Example]:
        """Examples of one feature: the top ones, strongest first, then from the highest to the lowest quarter."""
        if feature not in self._examples.index:
            return []
        rows = self._examples.loc[[feature]]
        return [
            Example(r.band, r.activation, r.ids.tolist(), r.values_.tolist(), r.position)
            for r in rows.rename(columns={"values": "values_"}).itertuples()
        ]
