"""One SAE of the workbench, opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.results import Results
from demo.workbench import Opened, Workbench


@pytest.fixture(scope="module")
def opened(workbench: Path) -> Opened:
    return Workbench(Results(workbench / "artifacts")).open("topk")


@pytest.fixture(scope="module")
def alive(opened: Opened) -> list[int]:
    """Features that fire, the loudest first."""
    table = opened.store.table
    return [int(feature) for feature in table[table["maximum"] > 0]["maximum"].sort_values(ascending=False).index]
