"""The house: a room imports only what stands above it, SAELens has one door, Gradio is the page's alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sae_tools
from tests.conftest import REPO

ORDER = ("common", "models", "activations", "saes", "metrics", "training", "analysis", "reports", "verify")
"""Each room of sae_tools may import from those before it, and from itself."""
APART = {("training", "analysis"), ("analysis", "training"), ("training", "models"), ("metrics", "models"),
         ("reports", "training"), ("reports", "activations")}  # fmt: skip
"""Which know nothing of each other all the same."""


def modules(path: Path) -> Iterator[str]:
    """Dotted names that a file imports, at any place in it, for type checking too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files(*packages: str) -> list[Path]:
    return [path for package in packages for path in sorted((REPO / package).rglob("*.py"))]


def room_of(path: Path) -> str:
    return path.relative_to(REPO / "sae_tools").parts[0].removesuffix(".py")


def test_every_file_is_in_a_room() -> None:
    assert {room_of(path) for path in files("sae_tools")} == {"__init__", *ORDER}


@pytest.mark.parametrize("room", ORDER)
def test_a_room_imports_only_what_stands_above_it(room: str) -> None:
    allowed = {other for other in ORDER[: ORDER.index(room) + 1] if (room, other) not in APART}
    for path in files("sae_tools"):
        if room_of(path) == room:
            for name in modules(path):
                package, _, rest = name.partition(".")
                assert package not in ("pipeline", "demo", "tests", "benchmarks", "dvc"), f"{path}: {name}"
                if package == "sae_tools":
                    assert rest.split(".")[0] in allowed, f"{path}: {name}"


def test_one_file_knows_saelens_and_only_the_page_knows_gradio() -> None:
    everything = files("sae_tools", "pipeline", "demo")
    importers = {
        library: {path.relative_to(REPO).as_posix() for path in everything for name in modules(path)
                  if name.split(".")[0] == library}
        for library in ("sae_lens", "gradio")
    }  # fmt: skip
    assert importers["sae_lens"] == {"sae_tools/saes.py"}
    assert importers["gradio"]
    assert all(name.startswith("demo/") for name in importers["gradio"])


@pytest.mark.parametrize("room", [name for name in ORDER if (REPO / "sae_tools" / name).is_dir()])
def test_a_room_says_what_it_is_and_runs_nothing(room: str) -> None:
    tree = ast.parse((REPO / "sae_tools" / room / "__init__.py").read_text())
    assert len(tree.body) == 1
    assert 2 <= len((ast.get_docstring(tree) or "").splitlines()) <= 5


def test_the_public_face_is_that_of_the_rooms_and_loads_nothing_before_it_is_used() -> None:
    from sae_tools import saes

    for name, home in sae_tools.HOMES.items():
        found = getattr(sae_tools, name)
        assert (found.__name__, found.__module__) == (name, f"sae_tools.{home}")
    assert saes.__name__ == "sae_tools.saes"
    code = "import sys, sae_tools; print({'torch', 'pydantic', 'sae_lens'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = sae_tools.trian


WITHOUT_TRANSFORMER_LENS = """
import importlib, pkgutil, sys, traceback

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "transformer_lens":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
tried = 0
for package in ("sae_tools", "pipeline", "demo"):
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        try:
            importlib.import_module(module.name)
            tried += 1
        except ModuleNotFoundError as error:
            files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
            print(module.name, next(file.split("/")[-3:] for file in reversed(files) if "site-packages" in file)[0])
print(tried, "imported")
"""


def test_without_transformer_lens_only_saelens_is_missing() -> None:
    """SAELens imports it as it is imported itself; of this project only what needs SAELens then does not open."""
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", WITHOUT_TRANSFORMER_LENS], cwd=REPO, capture_output=True, text=True
    )
    *missing, imported = said.stdout.splitlines()
    modules, importers = zip(*(line.split() for line in missing), strict=True)
    assert set(importers) == {"sae_lens"}
    rooms = {name.split(".")[1] if name.startswith("sae_tools.") else name for name in modules}
    assert rooms == {"saes", "training", "analysis"}
    assert int(imported.split()[0]) > 100
