"""The diff stage on a small pair: what it writes is whole, opens, is remade bit by bit; empty without a finetune."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import diff, paths
from pipeline.params import Params, load
from sae_tools import saes
from sae_tools.common.artifacts import verify
from tests.conftest import SMALL

DIFF = {
    "d_sae": 128,
    "k": 8,
    "training_tokens": 12_000,
    "batch_size": 256,
    "lr": 0.003,
    "n_tokens": 1024,
    "n_examples": 3,
}


def params_of(folder: Path, **changes: Any) -> Params:
    values = copy.deepcopy(SMALL)
    values["transfer"]["diff"] = DIFF
    for key, value in changes.items():
        section, name = key.split("__")
        values[section][name] = value
    (folder / "params.yaml").write_text(json.dumps(values))
    with contextlib.chdir(folder):
        return load()


@pytest.fixture(scope="module")
def made(workbench: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a pair and what the stage makes of it."""
    folder = tmp_path_factory.mktemp("diff")
    shutil.copytree(workbench / paths.PAIR, folder / paths.PAIR)
    params = params_of(folder)
    with contextlib.chdir(folder):
        diff.main(params)
    return folder


def test_the_folder_is_whole_and_its_saes_open(made: Path) -> None:
    folder = made / paths.CROSSCODER
    about = verify(folder)
    assert len(about["scales"]) == 2
    assert {path.name for path in folder.iterdir()} == {
        "base", "crosscoder", "finetuned", "latents.parquet", "examples.parquet", "figures.json", "manifest.json",
    }  # fmt: skip
    widths = {name: saes.load(folder / name).cfg.d_in for name in ("crosscoder", "base", "finetuned")}
    assert widths == {"crosscoder": 512, "base": 256, "finetuned": 256}
    model = saes.load(folder / "finetuned").cfg.metadata.model_name
    assert model == SMALL["language_model"]["finetuned"]
    assert not list((made / "artifacts").glob(".*"))


def test_the_figures_agree_with_the_table(made: Path) -> None:
    figures = json.loads((made / paths.CROSSCODER / "figures.json").read_text())
    latents = pd.read_parquet(made / paths.CROSSCODER / "latents.parquet")
    examples = pd.read_parquet(made / paths.CROSSCODER / "examples.parquet")
    live = latents[latents["density"] > 0]
    assert len(latents) == 128
    assert figures["classes"] == {name: int((live["class"] == name).sum()) for name in figures["classes"]}
    assert figures["n_tokens"] <= 1024
    assert sum(figures["relative_norms"]) == len(live)
    for model in ("base", "finetuned"):
        assert (
            0.2
            < figures[f"half_{model}_explained_variance"]
            <= figures[f"crosscoder_{model}_explained_variance"] + 0.05
        )
    assert examples["feature"].nunique() == 6
    assert set(examples["feature"]) <= set(live.index)


def test_a_second_run_writes_the_same_bytes(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / paths.PAIR, tmp_path / paths.PAIR)
    params = params_of(tmp_path)
    with contextlib.chdir(tmp_path):
        diff.main(params)
    for path in sorted((made / paths.CROSSCODER).rglob("*")):
        other = tmp_path / path.relative_to(made)
        if path.is_file():
            assert path.read_bytes() == other.read_bytes(), path.name


@pytest.mark.parametrize("change", [{"language_model__finetuned": None}, {"transfer__diff": None}])
def test_without_a_finetune_or_a_recipe_the_folder_is_empty(tmp_path: Path, change: dict[str, None]) -> None:
    params = params_of(tmp_path, **change)
    with contextlib.chdir(tmp_path):
        diff.main(params)
        verify(paths.CROSSCODER)
    assert [path.name for path in (tmp_path / paths.CROSSCODER).iterdir()] == ["manifest.json"]
