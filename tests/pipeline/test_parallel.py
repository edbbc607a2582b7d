"""evaluate, transfer and features, each run by two processes on the small workbench, write what one process writes."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline import evaluate, features, paths, transfer
from pipeline.params import load
from sae_tools.common import distributed
from tests.conftest import SMALL
from tests.sae_tools import forked
from tests.sae_tools.analysis.test_parallel import flat

SENTENCES = ("verdict.json", "gallery.json")
WRITTEN = (paths.evaluation("topk"), paths.transfer("topk"), paths.features("topk"))


def stages(folder: Path) -> None:
    """The three stages, in the manner of torchrun."""
    os.chdir(folder)
    params = load()
    with distributed.group():  # one for all three: these processes do not end between them
        for stage in (evaluate, transfer, features):
            stage.main(params, "topk")


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def same(one: Path, other: Path) -> None:
    if one.name.endswith("json") and one.name not in SENTENCES:
        expected, found = (flat(json.loads(path.read_text())) for path in (one, other))
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-14), one
    elif one.suffix == ".parquet":
        pd.testing.assert_frame_equal(pd.read_parquet(other), pd.read_parquet(one), rtol=1e-9, atol=1e-14)
    else:
        assert one.read_bytes() == other.read_bytes()


def test_two_processes_write_what_one_does(workbench: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = copy.deepcopy(SMALL)
    values["evaluate"].update(n_tokens=1_024, batch_size=3)
    values["transfer"].update(n_tokens=512, batch_size=2, own={"release": str(workbench / paths.sae("standard"))})
    values["features"].update(n_tokens=4_096, n_held_out=1_024, batch_size=8, n_gained=64, prompts=["One day,", "Tom"])
    for n in (1, 2):
        folder = Path(shutil.copytree(workbench, tmp_path / str(n)))
        for path in WRITTEN:
            shutil.rmtree(folder / path)
        for path in (paths.metrics("evaluate", "topk"), paths.metrics("transfer", "topk"), paths.plot("l0", "topk")):
            (folder / path).unlink()
        (folder / "params.yaml").write_text(json.dumps(values))
        assert forked.ranks(n, stages, folder) == [0] * n
    one, two = (tmp_path / str(n) for n in (1, 2))
    assert files(one) == files(two) == files(workbench)
    for path in (*WRITTEN, Path("metrics"), Path("plots")):
        for name in files(one / path):
            if name != "manifest.json":
                same(one / path / name, two / path / name)
    figures = json.loads((two / paths.transfer("topk") / "figures.json").read_text())
    assert figures["own"]["base_text"]["base"]["n_tokens"] > 400
    for name in files(one / paths.features("topk")):
        assert (one / paths.features("topk") / name).read_bytes() == (two / paths.features("topk") / name).read_bytes()
