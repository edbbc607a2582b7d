"""The About tab: what it says of an SAE is what its files say."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from demo.results import Results

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
Visit = Callable[..., Any]


def test_about_tells_what_the_files_say(visit: Visit, workbench: Path) -> None:
    page = visit("?sae=topk&tab=about")
    about = page.locator("#about")
    for sentence in json.loads((workbench / "artifacts/evaluation/topk/verdict.json").read_text()):
        expect(about).to_contain_text(sentence)
    expect(about.locator("table.metrics")).to_contain_text("Explained variance")
    expect(about.locator("dl.made")).to_contain_text("512 in 256 dimensions")
    expect(about.locator("dl.made")).to_contain_text("98,304")
    expect(about).to_contain_text("reports/topk.html")
    expect(about).not_to_contain_text(str(workbench))
    weights = hashlib.sha256((workbench / "artifacts/saes/topk/sae_weights.safetensors").read_bytes()).hexdigest()
    program, citation = (code.inner_text() for code in about.locator("pre").all())
    assert weights[:16] in citation
    ast.parse(program)


def test_what_is_not_there_is_not_told(tmp_path: Path) -> None:
    results = Results(tmp_path / "artifacts")
    assert results.recipe("x") == {}
    assert results.config("x") == {}
    assert results.digest("x") == ""
    assert results.reports("x") == []
    folder = tmp_path / "artifacts/saes/x"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"about": [], "files": {"sae_weights.safetensors": 5}}')
    assert results.recipe("x") == {}
    assert results.digest("x") == ""


def test_a_phone_needs_no_sideways_scrolling(visit: Visit) -> None:
    page = visit("?tab=about", 375)
    expect(page.locator("#about h3").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
