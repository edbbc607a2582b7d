"""An SAE divided by latents between two processes goes through the stages that train, and ends as any other."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipeline import baseline, harvest, paths, stream, train, workers
from pipeline.params import Params
from sae_tools import saes
from sae_tools.common import distributed
from sae_tools.common.artifacts import verify
from sae_tools.common.settings import Recipe
from sae_tools.verify import check
from tests.pipeline.test_stages import params_of, read_metrics
from tests.sae_tools import forked

FILES = ("cfg.json", "sae_weights.safetensors")


def params_in(folder: Path, parts: int, store: str = "disk") -> Params:
    def change(values: dict[str, Any]) -> None:
        values["harvest"].update(store=store, shard_rows=4_096)
        values["dataset"].update(n_tokens=8_192)
        values["evaluate"].update(baseline=True)
        few = {"d_sae": 64, "training_tokens": 4_096, "product_dtype": "float32", "step": "sparse"}
        values["saes"]["topk"].update(few, seeds=2, latent_parallel=parts)
        values["saes"]["standard"].update(few)

    folder.mkdir()
    params: Params = params_of(folder, change)
    return params


def stages(folder: Path, params: Params) -> None:
    """All that trains; a stage that one process does is left to the first."""
    with contextlib.chdir(folder), distributed.group():
        if params.harvest.store == "none":
            stream.main(params)
        if params.harvest.store == "disk" or os.environ["RANK"] == "0":
            train.main(params, "topk")
            baseline.main(params, "topk")


def test_two_processes_train_an_sae_that_is_divided_between_them(tmp_path: Path) -> None:
    alone, disk, none = (tmp_path / name for name in ("alone", "disk", "none"))
    for folder, parts, store in ((alone, 1, "disk"), (disk, 2, "disk"), (none, 2, "none")):
        params = params_in(folder, parts, store)
        with contextlib.chdir(folder):
            harvest.main(params)
        assert forked.ranks(parts, stages, folder, params) == [0] * parts
    for place in (paths.sae("topk"), paths.sae("topk") / "seed-1", paths.baseline("topk")):
        ours, theirs = (load_file(folder / place / FILES[1]) for folder in (disk, alone))
        for name, weight in theirs.items():
            torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-5)
        assert saes.load(disk / place).cfg == saes.load(alone / place).cfg
        for file in FILES:
            assert (disk / place / file).read_bytes() == (none / place / file).read_bytes()
    assert check(disk / paths.sae("topk")) == "topk SAE, 256 -> 64"
    assert verify(disk / paths.sae("topk"))["recipe"]["latent_parallel"] == 2
    found, expected = (read_metrics(folder, "train", "topk") for folder in (disk, alone))
    assert found.pop("seeds") == pytest.approx(expected.pop("seeds"), rel=1e-3)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("gpus", "recipes", "expected"),
    [
        (8, {"parts": 4, "batch_size": 4096}, 8),
        (6, {"parts": 4, "batch_size": 4096}, 4),
        (8, {"parts": 2, "batch_size": 6}, 6),
        (8, {"parts": 1, "batch_size": 6}, 6),
        (2, {"parts": 4, "batch_size": 4096}, None),
    ],
)
def test_as_many_gpus_are_used_as_divide_latents_and_batch(
    gpus: int, recipes: dict[str, int], expected: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", SimpleNamespace(name="pipeline.train"))
    recipe = Recipe("topk", 64, 64, recipes["batch_size"], latent_parallel=recipes["parts"])
    workers.spread("auto", recipe.fits)
    found = [argument for arguments in started for argument in arguments if argument.startswith("--nproc")]
    assert found == ([] if expected is None else [f"--nproc-per-node={expected}"])


def test_an_sae_on_more_rows_than_fit_is_measured_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = saes.build("topk", 16, 64, {"k": 4}, {}, 0, "cpu").eval()
    rows = torch.randn(100, 16, generator=torch.Generator().manual_seed(0))
    expected = train.quality(sae, rows)
    monkeypatch.setattr(train, "LATENTS", 64 * 7)
    assert train.quality(sae, rows) == pytest.approx(expected, rel=1e-5)
