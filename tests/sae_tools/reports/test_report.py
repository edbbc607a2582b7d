"""A report shows what was measured, whole, alone, and in a real browser."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sae_tools.reports import figures
from sae_tools.reports.meanings import MEANINGS, shown
from sae_tools.reports.report import Contents, Shown, index, report
from tests.sae_tools.reports.test_render import HOSTILE, parsed


@pytest.fixture(scope="module")
def pages(workbench: Path) -> Path:
    return workbench / "reports"


def text_of(page: Path) -> str:
    """What a browser would show, without scripts."""
    body = re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    return " ".join(parsed(body.replace("<", " <")).text.split())


@pytest.mark.parametrize("name", ["topk", "standard"])
def test_every_figure_of_the_json_is_shown_with_its_meaning(workbench: Path, pages: Path, name: str) -> None:
    text = text_of(pages / f"{name}.html")
    folder = workbench / "artifacts/evaluation" / name
    measured = json.loads((folder / "figures.json").read_text())
    assert set(measured) == set(MEANINGS)
    for key, value in measured.items():
        words, meaning = MEANINGS[key]
        assert f"{words} {meaning} {shown(key, value)}".replace("  ", " ") in text, key
    for sentence in json.loads((folder / "verdict.json").read_text()):
        assert sentence in text
    assert len(re.findall(r"fires on [^ ]+ of all tokens", text)) == 20


def test_a_report_is_one_small_file_that_asks_nothing_of_the_network(pages: Path) -> None:
    for page in pages.glob("*.html"):
        markup = page.read_text()
        assert page.stat().st_size < 5e6
        assert not re.search(r"""(src|href)=["']?(https?:)?//""", markup)
        assert markup.count('id="plotly"') == 1


def test_the_index_compares_all_saes(workbench: Path, pages: Path) -> None:
    text = text_of(pages / "index.html")
    for name in ("topk", "standard"):
        measured = json.loads((workbench / "artifacts/evaluation" / name / "figures.json").read_text())
        assert shown("explained_variance", measured["explained_variance"]) in text
        assert f'<a href="{name}.html">' in (pages / "index.html").read_text()


def test_the_front_is_what_nothing_beats_in_both() -> None:
    saes = {"a": {"l0": 10, "y": 0.5}, "b": {"l0": 20, "y": 0.4}, "c": {"l0": 30, "y": 0.9}, "d": {"l0": 30, "y": 0.8}}
    line, dots = figures.front(saes, "y", "y").data
    assert list(zip(line.x, line.y, strict=True)) == [(10, 0.5), (30, 0.9)]
    assert set(dots.text) == set(saes)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(text: str) -> None:
    table = pd.DataFrame({"tokens": [3, 4]}, index=[0.0, 1.0])
    worst = {"before": text, "token": text, "after": text, "likeliest_without_sae": text, "likeliest_with_sae": text,
             "kl_div_with_sae": 1.0}  # fmt: skip
    latents = pd.DataFrame({name: [0.5, 1.0] for name in ("round_trip_max", "round_trip_mean", "round_trip_square")})
    contents = Contents(
        text, text, text, "topk", 8, 16, [text], dict.fromkeys(MEANINGS, 0.5),
        {"density": table.rename(columns={"tokens": "features"}), "l0": table, "latents": latents,
         "positions": pd.DataFrame({"kl_div_with_sae": [0.1]}, index=[1]), "worst": pd.DataFrame([worst]),
         "curve": pd.DataFrame()},
        [Shown(3, text, 0.1, 1.0, [([text, "b"], [1.0, 0.0])], [text])], {"path": text},
        {text: dict.fromkeys(MEANINGS, 1)},
    )  # fmt: skip
    plain = replace(contents, name="x", verdict=["x"])
    for page, harmless in (
        (report(contents), report(plain)),
        (
            index({text: contents.figures}, {text: [text]}, {text: [text]}, True),
            index({"x": contents.figures}, {"x": ["x"]}, {"x": ["x"]}, True),
        ),
    ):
        assert set(parsed(page).tags) == set(parsed(harmless).tags)
        assert parsed(page).attributes == parsed(harmless).attributes


def test_a_browser_draws_every_chart_and_complains_of_nothing(browser: Any, pages: Path) -> None:
    for width in (1280, 375):
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems: list[str] = []
        page.on("console", lambda message, to=problems: to.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error, to=problems: to.append(str(error)))
        page.on("request", lambda request, to=problems: to.append(request.url) if "http" in request.url else None)
        for name, charts in {"topk": 4, "standard": 5, "index": 2, "transfer-topk": 9, "difference": 1}.items():
            page.goto(f"file://{pages / name}.html")
            page.wait_for_function(f"document.querySelectorAll('.plot .main-svg').length >= {charts}")
            assert page.evaluate("document.documentElement.scrollWidth") == width
        assert problems == []
        page.close()
