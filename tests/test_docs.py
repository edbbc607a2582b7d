"""The pages of docs/ say what is so: commands run or can be run, links lead somewhere, settings and code exist."""

from __future__ import annotations

import ast
import contextlib
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from sae_tools.common import settings
from tests.conftest import REPO

PAGES = sorted((REPO / "docs").glob("*.md"))
RUN = ("python -m pipeline.plan --seconds 0", "python -m sae_tools.verify", "sha256sum")
"""Beginnings of commands that are run as they stand, beside those that end with --help."""
SECTIONS = {
    "language_model": settings.Models, "dataset": settings.Dataset, "harvest": settings.Harvest,
    "evaluate": settings.Evaluate, "transfer": settings.Transfer, "features": settings.Features,
}  # fmt: skip
INSIDE = {"transfer.dataset": settings.Dataset, "transfer.adapt": settings.Adapt, "transfer.diff": settings.Diff}
SHELL = {"cp", "git", "sha256sum", "dvc"}
"""Programs of which no more is asked here; dvc has a test of its own."""


def name_of(page: Path) -> str:
    return page.name


def blocks(page: Path, language: str) -> list[tuple[str, str]]:
    """Of each block fenced as of this language the last line of text above it, and what is in it."""
    found, above, opened, inside = [], "", "", []
    for line in page.read_text().splitlines():
        if not line.startswith("```"):
            inside.append(line)
            above = above if opened or not line else line
        elif opened:
            if opened == f"```{language}":
                found.append((above, "\n".join(inside) + "\n"))
            opened = ""
        else:
            opened, inside = line, []
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command of a block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines for part in line.split("&&") if (words := shlex.split(part, comments=True))]


def needs(above: str) -> bool:
    """Whether the line above a block says that it takes more than this machine has."""
    return "Needs " in above


@pytest.fixture
def project(workbench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the workbench's results, in which a page's words hold."""
    shown = {"assets": REPO / "assets", **{path.name: path for path in workbench.iterdir()}}
    for name, target in shown.items():
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- commands --------------------------------------------------------------------------------------------------------


def options(module: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What a module's --help says."""
    assert ran(module, ["--help"]) == 0
    return capsys.readouterr().out


def ran(module: str, arguments: list[str]) -> int:
    """`python -m module arguments`, in this process; its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module, *arguments])
        for name in (module, f"{module}.__main__"):
            patch.delitem(sys.modules, name, raising=False)
        try:
            runpy.run_module(module, run_name="__main__", alter_sys=False)
        except SystemExit as error:
            return int(error.code or 0)
    return 0


def check_module(module: str, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The module is there, and takes these arguments: the name of an SAE, or flags that its --help lists."""
    assert find_spec(module) is not None, module
    source = (REPO / f"{module.replace('.', '/')}.py", REPO / module.replace(".", "/") / "__main__.py")
    text = next(path.read_text() for path in source if path.is_file())
    if "ArgumentParser" not in text:
        assert all(argument in ("topk", "standard") for argument in arguments), arguments
        assert ("named=False" in text) == (not arguments), module
        return
    shown = options(module, capsys)
    for argument in arguments:
        if argument.startswith("--"):
            assert re.search(rf"{re.escape(argument.split('=')[0])}\b", shown), (module, argument)


def check(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that is not run: its program and what it is asked exist."""
    program, *rest = words
    if program == "python":
        assert rest[0] == "-m"
        check_module(rest[1], rest[2:], capsys)
    elif program == "torchrun":
        from torch.distributed.run import parse_args

        asked = parse_args(rest)
        assert asked.module
        check_module(asked.training_script, asked.training_script_args, capsys)
    elif program == "make":
        makefile = (REPO / "Makefile").read_text()
        for word in rest:
            name, is_variable, _ = word.partition("=")
            assert f"$({name})" in makefile if is_variable else re.search(rf"^{name}:", makefile, re.MULTILINE), word
    else:
        assert program in SHELL, words


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_runs_or_can_be_run(page: Path, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for above, text in [*blocks(page, "sh"), *blocks(page, "")]:
        if needs(above):
            for module in re.findall(r"\b(?:pipeline|sae_tools|demo)\.\w+", text):
                assert find_spec(module) is not None, module
            continue
        for words in commands(text):
            command = " ".join(words)
            if words[:2] == ["python", "-m"] and (words[-1] == "--help" or command.startswith(RUN)):
                assert ran(words[2], words[3:]) == 0, command
            elif command.startswith(RUN):
                assert all((project / path).is_file() for path in words[1:]), command
            else:
                check(words, capsys)


def test_a_command_that_does_not_exist_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ("make demos", "make demo PRESETS=gpt2", "python -m demo --hosts 0", "curl x",
             "python -m pipeline.harvest topk", "python -m pipeline.train", "torchrun --nodes=2 -m pipeline.train topk",
             "python -m pipeline.missing")  # fmt: skip
    for command in wrong:
        with pytest.raises((AssertionError, SystemExit)):
            check(shlex.split(command), capsys)


REFUSED = """
import json, sys
from dvc.cli import DvcParserError, parse_args
for line in json.load(sys.stdin):
    try:
        parse_args(line)
    except (DvcParserError, SystemExit):
        print("refused:", *line)
"""
"""In a process of its own: DVC sets up logging and colours for the whole of it."""


def test_dvc_takes_every_command() -> None:
    found = [words[1:] for page in PAGES for _, text in [*blocks(page, "sh"), *blocks(page, "")]
             if not text.startswith("#!") for words in commands(text) if words[0] == "dvc"]  # fmt: skip
    assert len(found) > 5
    asked = json.dumps([*found, ["reproduce"], ["push", "--quickly"]])
    done = subprocess.run([sys.executable, "-c", REFUSED], input=asked, capture_output=True, text=True, check=True)
    refused = [line for line in done.stdout.splitlines() if line.startswith("refused:")]
    assert refused == ["refused: reproduce", "refused: push --quickly"]


# --- links and names -------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    """GitHub's anchors of a page's headings."""
    found = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", [REPO / "README.md", REPO / "benchmarks" / "README.md", *PAGES], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_readme_links_to_every_page() -> None:
    readme = (REPO / "README.md").read_text()
    assert [page.name for page in PAGES if f"](docs/{page.name})" not in readme] == []


def has(dotted: str) -> bool:
    """Whether a setting is there."""
    section, _, name = dotted.rpartition(".")
    owner: Any = SECTIONS.get(section) or INSIDE.get(section)
    if owner is None and re.fullmatch(r"saes\.\w+", section):
        return name in settings.Recipe.__dataclass_fields__ or name in ("k", "l1_coefficient")  # type: ignore[attr-defined]
    return owner is not None and name in owner.__dataclass_fields__


@pytest.mark.parametrize("page", [REPO / "README.md", *PAGES], ids=name_of)
def test_every_setting_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    named = set(re.findall(rf"`((?:{'|'.join([*SECTIONS, 'saes'])})\.[a-z_0-9.]+)[`:]", text))
    assert {name for name in named if not has(name) and not name.endswith((".py", ".html"))} == set()


def test_a_setting_that_does_not_exist_is_found() -> None:
    assert has("transfer.diff.k")
    assert not has("harvest.stores")
    assert not has("transfer.diff.n_token")


# --- code ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def unregistered(name: str) -> Iterator[None]:
    """Without an architecture, that a page may register it."""
    from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY

    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(SAE_TRAINING_CLASS_REGISTRY, name, raising=False)
        yield
        SAE_TRAINING_CLASS_REGISTRY.pop(name, None)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_the_code_runs(page: Path, project: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    with unregistered("annealed_topk"):
        for above, text in blocks(page, "python"):
            code = compile(text, page.name, "exec")
            if not needs(above):
                exec(code, names)


def test_the_example_variant_is_the_one_on_its_page() -> None:
    """The page leaves out docstrings; all else is the file's."""
    page = ast.parse("".join(text for _, text in blocks(REPO / "docs" / "variant.md", "python")[:2]))
    file = ast.parse((REPO / "sae_tools" / "training" / "variants" / "annealed_topk.py").read_text())
    assert bare(page) == bare(file)


def bare(module: ast.Module) -> list[str]:
    """Classes and calls of a module, without docstrings."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            node.body = [part for part in node.body if not _is_text(part)]
    return [ast.dump(node) for node in module.body if not isinstance(node, ast.ImportFrom) and not _is_text(node)]


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
