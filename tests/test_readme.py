"""The README's notebook examples run, one after the other, where the pipeline has run."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import pytest

from tests.conftest import REPO


def test_the_notebook_examples_run(
    workbench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for name, target in {"assets": REPO / "assets", "artifacts": workbench / "artifacts"}.items():
        (tmp_path / name).symlink_to(target)
    names: dict[str, object] = {}
    with contextlib.chdir(tmp_path):
        for block in blocks:
            # As they stand, but for a shorter training run.
            exec(block.replace("500_000", "20_000"), names)
    story, *_ = capsys.readouterr().out.splitlines()
    assert story
    assert len(names["table"]) == 512  # type: ignore[arg-type]
    assert (tmp_path / "my-sae" / "cfg.json").is_file()
