"""GitHub's workflows: they are YAML, and what they run is there."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from demo import space
from tests.conftest import REPO

WORKFLOWS = sorted((REPO / ".github/workflows").glob("*.y*ml"))
MAKEFILE = (REPO / "Makefile").read_text()


def read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = YAML(typ="safe").load(path)  # YAML 1.2, in which `on` is a word
    return found


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def test_there_are_three() -> None:
    assert [path.stem for path in WORKFLOWS] == ["newest", "space", "tests"]
    when = {path.stem: set(read(path)["on"]) for path in WORKFLOWS}
    assert {"push", "pull_request"} <= when["tests"]
    assert "push" in when["space"]
    assert "schedule" in when["newest"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_is_bounded_and_may_only_read(path: Path) -> None:
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "timeout-minutes", "steps"} <= set(job)
    for step in steps(path):
        assert len({"run", "uses"} & set(step)) == 1
        assert re.fullmatch(r"actions/[\w-]+@v\d+", step.get("uses", "actions/none@v1"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_what_it_runs_is_there(path: Path) -> None:
    commands = [line for step in steps(path) for line in step.get("run", "").splitlines()]
    assert commands
    for command in commands:
        words = shlex.split(command)
        if words[0] == "make":
            for word in words[1:]:
                name, given, _ = word.partition("=")
                assert re.search(rf"^{name} \?=" if given else rf"^{name}:", MAKEFILE, re.MULTILINE), command
        else:
            assert words[:2] == [".venv/bin/python", "-m"], command
            assert importlib.util.find_spec(words[2]), command
            if words[2] == "demo.space":
                assert space.parse(words[3:]).repo_id == "$HF_REPO_ID"


def test_the_oldest_python_is_tried() -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    (job,) = read(REPO / ".github/workflows/tests.yml")["jobs"].values()
    assert f">={job['strategy']['matrix']['python'][0]}" == project["requires-python"]
