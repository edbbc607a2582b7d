"""dvc.yaml names the code and the params that each stage really uses."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline import paths
from tests.conftest import REPO

PACKAGES = ("sae_tools", "pipeline", "demo")


def _read(name: str) -> dict[str, Any]:
    values = YAML(typ="safe", pure=True).load(REPO / name)
    assert isinstance(values, dict)
    return values


STAGES: dict[str, dict[str, Any]] = {
    name: stage.get("do", stage) for name, stage in _read("dvc.yaml")["stages"].items()
}


def imports(path: Path) -> set[Path]:
    """The files of this project that a file imports, also inside functions, but not for type checking alone."""
    found: set[Path] = set()
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        modules: list[str] = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            modules = [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
        for module in modules:
            file = REPO / (module.replace(".", "/") + ".py")
            if module.split(".")[0] in PACKAGES and file.is_file():
                found.add(file)
    return found


def transitive(path: Path) -> set[str]:
    seen, waiting = set(), {path}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= imports(file) - seen
    return {file.relative_to(REPO).as_posix() for file in seen}


def script(stage: str) -> Path:
    match = re.match(r"python -m ([\w.]+)", STAGES[stage]["cmd"])
    assert match
    return REPO / (match[1].replace(".", "/") + ".py")


def names(entries: list[Any]) -> list[str]:
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries]


def room(file: str) -> str:
    """What a stage names for a file: its room, else the file itself."""
    parts = file.split("/")
    return "/".join(parts[:2]) if parts[0] == "sae_tools" else file


@pytest.mark.parametrize("stage", STAGES)
def test_code_dependencies_are_the_rooms_of_the_imports(stage: str) -> None:
    declared = [name for name in STAGES[stage]["deps"] if name.startswith(PACKAGES)]
    assert len(set(declared)) == len(declared)
    imported = {room(file) for file in transitive(script(stage)) if not file.endswith("__init__.py")}
    assert set(declared) == imported


def test_what_is_shown_never_harvests_or_trains_again() -> None:
    for stage, entries in STAGES.items():
        assert not [name for name in entries["deps"] if name.startswith(("demo", "README", "docs", "tests"))], stage
    for stage in ("harvest", "train"):
        assert "sae_tools/analysis" not in STAGES[stage]["deps"]


def test_what_python_leaves_in_a_room_is_no_dependency() -> None:
    """A room is a dependency as a folder: compiled files in it must not count."""
    assert "__pycache__/" in (REPO / ".dvcignore").read_text().split()


@pytest.mark.parametrize("stage", STAGES)
def test_params_equal_the_sections_that_the_code_reads(stage: str) -> None:
    scripts = {REPO / name for name in transitive(script(stage)) if name.startswith("pipeline/")}
    read = {
        node.attr
        for path in scripts - {REPO / "pipeline/params.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "params"
    }
    declared = {name.split(".")[0] for name in STAGES[stage]["params"]}
    # Which SAE is meant is all that later stages learn from `saes`: they depend on its folder.
    assert declared - {"saes"} == read - {"saes"}
    assert ("saes" in declared) == (stage in ("stream", "train", "baseline", "adapt", "report"))


@pytest.mark.parametrize("stage", STAGES)
def test_params_exist(stage: str) -> None:
    defaults = _read("params.yaml")
    for name in STAGES[stage]["params"]:
        for key in defaults["saes"]:
            value: Any = defaults
            for part in name.replace("${key}", key).split("."):
                assert part in value, name
                value = value[part]


@pytest.mark.parametrize("stage", STAGES)
def test_no_free_text_reaches_the_shell(stage: str) -> None:
    command = STAGES[stage]["cmd"]
    assert "${" not in command.replace(" ${key}", "")
    assert re.fullmatch(r"python -m pipeline\.\w+( \$\{key\})?", command)


def test_every_script_is_a_stage() -> None:
    scripts = {path.stem for path in (REPO / "pipeline").glob("*.py")} - {
        "__init__",
        "params",
        "paths",
        "plan",
        "preset",
        "probe",
        "workers",
        "identity",
        "difference_report",
        "transfer_report",
    }
    assert {script(stage).stem for stage in STAGES} == scripts == set(STAGES)


def test_outputs_are_where_the_code_writes() -> None:
    key = "${key}"
    expected = {
        "harvest": [paths.TOKENS, paths.ACTIVATIONS],
        "train": [paths.sae(key), paths.metrics("train", key), paths.plot("train", key)],
        "evaluate": [
            paths.evaluation(key),
            paths.metrics("evaluate", key),
            *(paths.plot(what, key) for what in ("density", "l0", "positions", "round_trip")),
        ],
        "transfer": [paths.transfer(key), paths.metrics("transfer", key)],
        "features": [paths.features(key)],
        "baseline": [paths.baseline(key)],
        "pair": [paths.PAIR],
        "adapt": [paths.adapted(key)],
        "diff": [paths.CROSSCODER],
        "report": [paths.REPORTS],
    }
    for stage, wanted in expected.items():
        found = [name for kind in ("outs", "metrics", "plots") for name in names(STAGES[stage].get(kind, []))]
        assert sorted(found) == sorted(map(str, wanted)), stage


def test_metrics_and_plots_are_in_git_and_activations_are_not_pushed() -> None:
    for stage in STAGES.values():
        for kind in ("metrics", "plots"):
            for entry in stage.get(kind, []):
                assert next(iter(entry.values()))["cache"] is False
    assert {"artifacts/activations": {"push": False}} in STAGES["harvest"]["outs"]


def test_models_and_texts_of_the_default_are_dependencies() -> None:
    defaults = _read("params.yaml")
    models, text = defaults["language_model"], defaults["dataset"]["path"]
    assert {models["base"], text} <= set(STAGES["harvest"]["deps"])
    second = defaults["transfer"]["dataset"]["path"]
    assert {models["base"], models["finetuned"], second} <= set(STAGES["transfer"]["deps"])
    for stage in ("evaluate", "features"):
        assert models["base"] in STAGES[stage]["deps"]


def test_dvc_takes_the_file() -> None:
    result = subprocess.run([sys.executable, "-m", "dvc", "stage", "list"], cwd=REPO, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    listed = {line.split()[0] for line in result.stdout.splitlines()}
    each = [f"{stage}@{sae}" for stage in ("train", "evaluate", "transfer", "features") for sae in ("topk", "standard")]
    assert {"harvest", *each} <= listed


def test_experiments_are_queued_and_compared_by_the_commands_of_the_readme(tmp_path: Path) -> None:
    """In a clone of what is here, as a user would; the runs themselves are those of `dvc repro`."""

    def run(*command: str) -> str:
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        return result.stdout

    dvc = (sys.executable, "-m", "dvc")
    for name in ("dvc.yaml", "params.yaml", ".dvc/config"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((REPO / name).read_text())
    run("git", "init", "--quiet")
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--message=a")
    words = (REPO / "README.md").read_text()
    queue, show = re.findall(r"^dvc (exp run --queue.*|exp show.*)$", words, flags=re.MULTILINE)
    run(*dvc, *queue.split())
    table = run(*dvc, *show.split(), "--csv")
    lines = [line.split(",") for line in table.splitlines()]
    assert "saes.topk.k" in lines[0]
    column = lines[0].index("saes.topk.k")
    assert {line[column] for line in lines[1:] if "Queued" in line} == {"20", "40", "80"}
    assert len(lines[0]) < 12
