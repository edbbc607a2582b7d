"""What the store gives back against the tables that were written."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sae_tools.analysis import store as module
from sae_tools.analysis.store import FeatureStore, write
from sae_tools.common.artifacts import new_folder
from sae_tools.common.errors import ArtifactError

Tables = tuple[pd.DataFrame, pd.DataFrame]


def tables_of(n: int, live: int = 2) -> Tables:
    """`n` features, of which only every `live`-th one has lists and examples."""
    chance = np.random.default_rng(0)
    counts = np.where(np.arange(n) % live == 0, chance.integers(1, 12, n), 0)
    table = pd.DataFrame({
        "label": [f"label {i}" for i in range(n)],
        "density": chance.random(n),
        "detection": np.where(counts > 0, chance.random(n), np.nan),
        "words": [np.array([f"w{j}" for j in range(count)], object) for count in counts],
        "histogram": [np.arange(count) for count in counts],
    }).rename_axis("feature")  # fmt: skip
    feature = np.repeat(np.arange(n), counts)
    rows = [chance.integers(0, 1000, 6) for _ in feature]
    examples = pd.DataFrame({
        "feature": feature,
        "band": "top",
        "activation": chance.random(len(feature)),
        "ids": rows,
        "values": [row / 7 for row in rows],
        "position": np.arange(len(feature)) % 6,
    })  # fmt: skip
    return table, examples


GALLERY = {"concepts": [{"feature": 3}], "steering": []}


@pytest.fixture(scope="module")
def tables() -> Tables:
    return tables_of(1000)


@pytest.fixture(scope="module")
def store(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    return FeatureStore.open(written(tmp_path_factory.mktemp("store") / "f", tables))


def written(folder: Path, tables: Tables) -> Path:
    with new_folder(folder, {"sae": "x"}) as new:
        write(new, *tables, GALLERY)
    return folder


def test_the_table_holds_the_columns_of_one_value(store: FeatureStore, tables: Tables) -> None:
    assert store.about == {"sae": "x"}
    assert store.gallery == GALLERY
    expected = tables[0][["label", "density", "detection"]]
    pd.testing.assert_frame_equal(store.table, expected, check_dtype=False, check_index_type=False)


def test_a_row_is_all_that_was_written_of_a_feature(store: FeatureStore, tables: Tables) -> None:
    for feature in (0, 1, 255, 256, 511, 998, 999, 0):
        row, expected = store.row(feature), tables[0].loc[feature]
        assert row.keys() == set(tables[0])
        assert (row["label"], row["density"]) == (expected["label"], expected["density"])
        assert row["words"].tolist() == expected["words"].tolist()
        assert row["histogram"].tolist() == expected["histogram"].tolist()
    for unknown in (-1, 1000):
        with pytest.raises(KeyError):
            store.row(unknown)


def test_examples_are_those_of_the_feature_in_their_order(store: FeatureStore, tables: Tables) -> None:
    for feature in (0, 1, 2, 500, 740, 742, 744, 998):
        expected, found = tables[1][tables[1]["feature"] == feature], store.examples(feature)
        assert [e.activation for e in found] == expected["activation"].tolist()
        assert [e.ids for e in found] == [list(i) for i in expected["ids"]]
        assert [e.values for e in found] == [list(v) for v in expected["values"]]
        assert [e.position for e in found] == expected["position"].tolist()
        assert all(isinstance(i, int) for e in found for i in e.ids)
    assert store.examples(10**6) == store.examples(-1) == []


def test_few_row_groups_stay_in_memory(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    store = FeatureStore.open(written(tmp_path / "f", tables))
    for feature in (0, 300, 600, 1, 999):
        assert store.row(feature)["label"] == f"label {feature}"
    assert list(store._groups) == [0, 3]


def test_nothing_but_dead_features(tmp_path: Path) -> None:
    table, examples = tables_of(3, live=1)
    store = FeatureStore.open(written(tmp_path / "f", (table.map(lambda v: v[:0] if np.ndim(v) else v), examples[:0])))
    assert store.examples(0) == []
    assert len(store.row(2)["words"]) == 0


def test_a_damaged_store_is_refused(tmp_path: Path, tables: Tables) -> None:
    folder = written(tmp_path / "f", tables)
    (folder / "examples.parquet").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"examples\.parquet"):
        FeatureStore.open(folder)


def test_a_hundred_thousand_features_open_in_no_time(tmp_path: Path) -> None:
    folder = written(tmp_path / "f", tables_of(100_000, live=40))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        store = FeatureStore.open(folder)
        times.append(time.perf_counter() - start)
    assert min(times) < 1
    times = []
    for feature in range(500, 100_000, 9_000):
        start = time.perf_counter()
        store.row(feature)
        store.examples(feature)
        times.append(time.perf_counter() - start)
    assert np.median(times) < 0.1
