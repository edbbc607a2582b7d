"""What a params file costs and lacks is told before anything runs, and nothing is written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from pipeline import plan
from sae_tools import saes
from tests.conftest import REPO, SMALL, random_sae
from tests.hub import environment, hub


def planned(folder: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch, seconds: str = "0") -> int:
    (folder / "params.yaml").write_text(json.dumps(values))
    monkeypatch.chdir(folder)
    return plan.main(["--seconds", seconds])


def rows(output: str) -> dict[str, list[str]]:
    """The words of each line, by its first."""
    return {line.split()[0]: line.split() for line in output.splitlines() if line}


def test_every_stage_has_a_line_and_the_machine_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned(tmp_path, SMALL, monkeypatch, "0.2") == 0
    shown = capsys.readouterr().out
    found = rows(shown)
    assert found["model"][-5:] == ["4.21", "M", "parameters", "in", "float32"]
    assert found["harvest"][1] == "49,152"
    assert found["train"][1] == "196,608"
    assert found["transfer"][1] == "4,096"
    assert {"evaluate", "features", "all"} <= set(found)
    assert shown.count("tried here") == 2
    assert "not tried" not in shown
    assert "Nothing is missing" in shown
    assert len(shown.splitlines()) < 25
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_slower_machine_needs_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = []
    for rate in (1e9, 1e8):
        monkeypatch.setattr(plan, "_measured", lambda *_, rate=rate: {"float32": rate, "sae": rate})
        assert planned(tmp_path, SMALL, monkeypatch) == 0
        shown.append(rows(capsys.readouterr().out)["harvest"][-2:])
    # 49,152 tokens through 3 blocks of 791,040 parameters, two operations each.
    assert shown == [["4", "min"], ["39", "min"]]


def test_what_is_too_little_or_not_there_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saes.save(random_sae("standard", d_in=256), tmp_path / "mine")
    values = {**SMALL, "saes": {"mine": {"release": str(tmp_path / "mine")}, "gone": {"release": "no-such-release"}}}
    disk = namedtuple("disk", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: disk(1, 1, 1_000_000))
    assert planned(tmp_path, values, monkeypatch) == 1
    shown = capsys.readouterr().out
    assert "mine (64 latents)" in shown
    missing = [line for line in shown.splitlines() if line.startswith("missing: ")]
    assert len(missing) == 2
    assert "SAE 'no-such-release', id '' cannot be read" in missing[0]
    assert "disk: activations take 0.025 GB, 0.001 GB are free" in missing[1]
    values["harvest"] = {"shard_rows": 1024, "store": "none"}
    assert planned(tmp_path, values, monkeypatch) == 1
    assert "disk: activations" not in capsys.readouterr().out


def test_a_gated_model_and_a_missing_text_are_told_at_once(tmp_path: Path) -> None:
    model = tmp_path / "hub/google/gemma-2b"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    values = {**SMALL, "language_model": {"base": "google/gemma-2b"}, "dataset": {"path": "no/text"}, "transfer": {}}
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    with hub(tmp_path / "hub", gated=["google/gemma-2b"]) as endpoint:
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.plan"], cwd=tmp_path, capture_output=True, text=True, timeout=60,
            env=environment(endpoint, tmp_path / "home") | {"PYTHONPATH": str(REPO)},
        )  # fmt: skip
    assert done.returncode == 1, done.stderr
    first, second = done.stdout.strip().splitlines()
    assert first.startswith("missing: model 'google/gemma-2b' is gated; accept its terms")
    assert second.startswith("missing: dataset 'no/text' is neither a file or folder here nor on the Hub")
    assert "Traceback" not in done.stderr
