"""`python -m demo.space` makes `build/space/`: the page as a complete Hugging Face Space, and no more.

The folder holds code, SAEs, features, what was measured, and the local models that the features name; no tokens, no
activations. Models named by a Hub id are fetched by the Space itself. To publish:
`hf upload <user>/<space> build/space --repo-type space`.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from demo.results import Results
from sae_tools.common import artifacts
from sae_tools.common.errors import ArtifactError, InputError, WorkbenchError
from sae_tools.models.sources import TRANSFORMER_LENS

TARGET = Path("build/space")
MOST_BYTES = 60_000_000
PACKAGES = ("sae_tools", "demo")
CODE = {".py", ".css", ".js"}
MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")
# Spaces install gradio by sdk_version, some with extras that hold pydantic back: pinned here, it would break the build.
LEFT_TO_SPACES = {"gradio", "pydantic"}

README = """---
title: SAE Workbench
emoji: 🔍
colorFrom: green
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
license: mit
short_description: Look inside a language model and steer its features
tags:
- interpretability
- sparse-autoencoder
{models}---

# SAE Workbench

See which concepts light up as a language model reads your words, then turn one up or down and watch what it writes.
"""
APP = '''"""Starts the page, wherever it is started from."""

import os
import sys
from pathlib import Path

os.chdir(Path(__file__).parent)

from demo.__main__ import main

if __name__ == "__main__":
    sys.exit(main([]))
'''


def build(root: Path, target: Path, most_bytes: int = MOST_BYTES) -> int:
    """Write the Space for the project in `root` to `target`, whole or not at all; returns its size in bytes.

    Raises:
        WorkbenchError: artifacts are missing or damaged, a local model lies outside the project, or it is too large.
    """
    results = Results(root / "artifacts")
    models = _models(root, results)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        _fill(temporary, root, results, models)
        size = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        if size > most_bytes:
            limit = f"{most_bytes / 1e6:.0f} MB"
            raise ArtifactError(f"The Space would take {size / 1e6:.1f} MB, more than {limit}: {_largest(temporary)}.")
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        return size
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fill(space: Path, root: Path, results: Results, models: list[str]) -> None:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in CODE and "__pycache__" not in path.parts:
                _copy(path, space / path.relative_to(root))
    for name in results.names():
        for kind in ("saes", "features", "evaluation", "transfer"):
            _copy_folder(root / "artifacts" / kind / name, space / "artifacts" / kind / name)
    for path in _compared(results.names()):
        _copy(root / "artifacts" / path, space / "artifacts" / path)
    for model in models:
        if (root / model).is_dir():
            for pattern in MODEL_FILES:
                for path in sorted((root / model).glob(pattern)):
                    _copy(path, space / model / path.name)
    pins = _pins(root / "constraints.txt")
    hub = [model for model in models if not (root / model).is_dir() and not model.startswith(TRANSFORMER_LENS)]
    listed = "".join(f"- {model}\n" for model in hub)
    (space / "README.md").write_text(README.format(gradio=pins["gradio"], models=f"models:\n{listed}" if hub else ""))
    (space / "app.py").write_text(APP)
    needed = sorted(_needed(root / "pyproject.toml") - LEFT_TO_SPACES)
    (space / "requirements.txt").write_text("".join(f"{name}=={pins[name]}\n" for name in needed))


def _compared(names: list[str]) -> list[Path]:
    """What the page shows of repaired SAEs and of the crosscoder; their weights stay behind."""
    tables = [Path("crosscoder", name) for name in ("figures.json", "latents.parquet", "examples.parquet")]
    return [*tables, *(Path("adapted", name, "figures.json") for name in names)]


def _models(root: Path, results: Results) -> list[str]:
    """Names of the models that the features were made with; a local one must lie in the project, to keep its path."""
    named: list[str] = []
    for name in results.names():
        artifacts.verify(root / "artifacts" / "saes" / name)
        about = artifacts.verify(root / "artifacts" / "features" / name)
        named += [model["name"] for model in (about["base"], about.get("finetuned")) if model]
    for model in named:
        path = Path(model)
        if path.is_absolute() or ".." in path.parts:
            remedy = "put it under assets/ or on the Hub, and run `dvc repro`"
            raise InputError(f"model {model!r} lies outside the project; {remedy}.")
    return list(dict.fromkeys(named))


def _copy_folder(source: Path, target: Path) -> None:
    for path in sorted(source.rglob("*")):
        if path.is_file():
            _copy(path, target / path.relative_to(source))


def _copy(source: Path, target: Path) -> None:
    """Copy a file where there is one."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _largest(folder: Path) -> str:
    sizes = sorted(((path.stat().st_size, path) for path in folder.rglob("*") if path.is_file()), reverse=True)
    return ", ".join(f"{path.relative_to(folder)} has {size / 1e6:.1f} MB" for size, path in sizes[:3])


def _plain(requirement: str) -> str:
    """The normalised name of a requirement: `sae_lens>=6` is `sae-lens`."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=!~;\[]", requirement.strip(), maxsplit=1)[0]).lower()


def _pins(path: Path) -> dict[str, str]:
    lines: Iterable[str] = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return {_plain(line): line.split("==")[1] for line in lines if "==" in line}


def _needed(path: Path) -> set[str]:
    project: dict[str, Any] = tomllib.loads(path.read_text())["project"]
    return {_plain(line) for line in [*project["dependencies"], *project["optional-dependencies"]["demo"]]}


def main() -> int:
    try:
        size = build(Path(), TARGET)
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{TARGET} holds the Space, {size / 1e6:.1f} MB.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
