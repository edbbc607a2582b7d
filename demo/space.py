"""`python -m demo.space` makes `build/space/`: the page as a complete Hugging Face Space, and no more.

The folder holds code, SAEs, features, what was measured, and the local models that the features name; no tokens, no
activations. Models named by a Hub id are fetched by the Space itself. With `--repo-id` it is published, and the SAEs
beside it as a model repository.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from demo.publishing.card import TAGS
from demo.publishing.folders import copy, copy_folder, on_hub, replacing
from demo.results import Results
from sae_tools.common import artifacts
from sae_tools.common.errors import ArtifactError, InputError, WorkbenchError

TARGET, SAES = Path("build/space"), Path("build/saes")
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
python_version: "3.12"
app_file: app.py
license: mit
short_description: Look inside a language model and steer its features
tags:
{tags}
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


def build(root: Path, target: Path, most_bytes: int = MOST_BYTES, linked: Sequence[str] = ()) -> int:
    """Write the Space for the project in `root` to `target`, whole or not at all; returns its size in bytes.

    Its README links the models on the Hub that it runs, and `linked` ones.

    Raises:
        WorkbenchError: artifacts are missing or damaged, a local model lies outside the project, or it is too large.
    """
    results = Results(root / "artifacts")
    models = _models(root, results)
    with replacing(target) as space:
        _fill(space, root, results, models, linked)
        size = sum(path.stat().st_size for path in space.rglob("*") if path.is_file())
        if size > most_bytes:
            limit = f"{most_bytes / 1e6:.0f} MB"
            raise ArtifactError(f"The Space would take {size / 1e6:.1f} MB, more than {limit}: {_largest(space)}.")
    return size


def _fill(space: Path, root: Path, results: Results, models: list[str], linked: Sequence[str]) -> None:
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            if path.suffix in CODE and "__pycache__" not in path.parts:
                copy(path, space / path.relative_to(root))
    for name in results.names():
        for kind in ("saes", "features", "evaluation", "transfer"):
            copy_folder(root / "artifacts" / kind / name, space / "artifacts" / kind / name)
    for path in _compared(results.names()):
        copy(root / "artifacts" / path, space / "artifacts" / path)
    for model in models:
        if (root / model).is_dir():
            for pattern in MODEL_FILES:
                for path in sorted((root / model).glob(pattern)):
                    copy(path, space / model / path.name)
    pins = _pins(root / "constraints.txt")
    hub = [*(model for model in models if on_hub(root, model)), *linked]
    listed = "".join(f"- {model}\n" for model in hub)
    tags, models_listed = "\n".join(f"- {tag}" for tag in TAGS), f"models:\n{listed}" if hub else ""
    (space / "README.md").write_text(README.format(gradio=pins["gradio"], tags=tags, models=models_listed))
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


def main(arguments: list[str] | None = None) -> int:
    given = parse(arguments)
    try:
        if not given.repo_id:
            print(f"{TARGET} holds the Space, {build(Path(), TARGET) / 1e6:.1f} MB.")
            return 0
        from demo.publishing import hub, repository

        to = hub.checked(given.repo_id)
        names = repository.trained(Path())
        build(Path(), TARGET, linked=[given.repo_id] if names else [])
        folders = {"space": TARGET}
        if names:
            repository.build(Path(), SAES, names, given.repo_id, given.license)
            folders = {"model": SAES, **folders}
        print(*to.publish(folders, given.private), sep="\n")
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.space", formatter_class=argparse.RawDescriptionHelpFormatter,
        description=f"""\
Make {TARGET}: the page, with the SAEs and what was measured, as a complete Hugging Face Space.

With --repo-id, publish it. Models and Spaces have separate names on the Hub, so one id serves for two things:
  the Space             huggingface.co/spaces/OWNER/NAME   the page
  the model repository  huggingface.co/OWNER/NAME          the SAEs that were trained here, in SAELens' layout
Run it again to update both: what did not change is not sent, what is gone here goes there, and an upload that was
killed goes on. What was not made by this command is never replaced.""",
        epilog="Sign in first, by `hf auth login` or HF_TOKEN. A new Space needs an account that may create Spaces.",
    )  # fmt: skip
    parser.add_argument("--repo-id", default="", metavar="OWNER/NAME", help="publish under this id")
    parser.add_argument("--private", action="store_true", help="let nobody else see either; made so before any upload")
    parser.add_argument(
        "--license", default="mit", metavar="ID", help="of the SAEs, as the Hub writes it: mit, apache-2.0, gemma, "
        "other (default: %(default)s)",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.private and not given.repo_id:
        parser.error("--private goes with --repo-id")
    return given


if __name__ == "__main__":
    sys.exit(main())
