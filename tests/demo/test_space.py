"""The Space holds what the page needs and nothing else, or is refused in one sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from demo.space import build
from sae_tools.common.artifacts import new_folder
from sae_tools.common.errors import ArtifactError, InputError
from tests.conftest import REPO


def project(root: Path, base: str = "assets/tiny", finetuned: str | None = "someone/hub-model") -> Path:
    """The code of this project with small made-up artifacts, among files that must stay behind."""
    for package in ("sae_tools", "demo"):
        shutil.copytree(REPO / package, root / package)
    for name in ("constraints.txt", "pyproject.toml"):
        shutil.copy(REPO / name, root / name)
    (root / "demo" / "__pycache__").mkdir(exist_ok=True)
    about = {"base": {"name": base}, "finetuned": finetuned and {"name": finetuned}}
    for kind in ("saes", "features"):
        with new_folder(root / "artifacts" / kind / "topk", about) as folder:
            (folder / "data").write_text(kind)
    left_behind = [
        "artifacts/tokens/x",
        "artifacts/activations/x",
        "artifacts/saes/old/x",
        ".env",
        "demo/__pycache__/x.pyc",
    ]
    for path in ["assets/tiny/config.json", "assets/tiny/model.safetensors", "assets/tiny/optimizer.pt", *left_behind]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("{}")
    (root / "artifacts/evaluation/topk").mkdir(parents=True)
    (root / "artifacts/evaluation/topk/figures.json").write_text(json.dumps({"l0": 1.0}))
    return root


def test_all_that_is_needed_and_nothing_else(tmp_path: Path) -> None:
    root = project(tmp_path)
    space = tmp_path / "build" / "space"
    build(root, space)
    build(root, space)  # over an older one
    files = {path.relative_to(space).as_posix() for path in space.rglob("*") if path.is_file()}
    code = {name for name in files if name.startswith(("sae_tools/", "demo/"))}
    assert {"demo/__main__.py", "demo/styles/page.css", "demo/scripts/clicks.js", "sae_tools/models/lm.py"} <= code
    assert {Path(name).suffix for name in code} == {".py", ".css", ".js"}
    assert files - code == {
        "README.md", "app.py", "requirements.txt", "assets/tiny/config.json", "assets/tiny/model.safetensors",
        "artifacts/saes/topk/data", "artifacts/saes/topk/manifest.json", "artifacts/features/topk/data",
        "artifacts/features/topk/manifest.json", "artifacts/evaluation/topk/figures.json",
    }  # fmt: skip
    readme = (space / "README.md").read_text()
    assert readme.startswith("---\n")
    pins = dict(line.split("==") for line in (REPO / "constraints.txt").read_text().split() if "==" in line)
    assert f"sdk_version: {pins['gradio']}\n" in readme
    assert "models:\n- someone/hub-model\n" in readme
    required = (space / "requirements.txt").read_text().splitlines()
    for name in ("torch", "transformers", "sae-lens", "pandas", "plotly", "pyarrow", "safetensors"):
        assert f"{name}=={pins[name]}" in required
    assert not [line for line in required if line.startswith(("gradio", "dvc", "pytest"))]


def test_too_large_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    root = project(tmp_path)
    with pytest.raises(ArtifactError, match=r"more than 0 MB: .* has"):
        build(root, tmp_path / "space", most_bytes=1000)
    assert not (tmp_path / "space").exists()


def test_missing_artifacts_say_what_to_run(tmp_path: Path) -> None:
    root = project(tmp_path)
    shutil.rmtree(root / "artifacts")
    with pytest.raises(ArtifactError, match="dvc repro"):
        build(root, tmp_path / "space")


def test_damaged_artifacts_are_not_published(tmp_path: Path) -> None:
    root = project(tmp_path)
    (root / "artifacts/saes/topk/data").write_text("zaes")
    with pytest.raises(ArtifactError, match="damaged"):
        build(root, tmp_path / "space")


@pytest.mark.parametrize("base", ["/somewhere/model", "../model"])
def test_a_model_outside_the_project_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(InputError, match="outside the project"):
        build(project(tmp_path, base), tmp_path / "space")
