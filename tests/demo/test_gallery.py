"""The gallery in a browser: what a stranger sees, and where each click leads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from sae_tools.analysis import store
from sae_tools.common.artifacts import new_folder, verify
from tests.demo.conftest import serving

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
Visit = Callable[..., Any]
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)}"
STEERED = " They saw a Dog <b>dogs</b> and a dog."


@pytest.fixture(scope="module")
def chosen(workbench: Path) -> list[int]:
    """Features that fire now and then."""
    table = pd.read_parquet(workbench / "artifacts/features/topk/features.parquet")
    return [int(i) for i in table.index[(table["density"] > 0.005) & (table["density"] < 0.05)][:10]]


@pytest.fixture(scope="module")
def server(workbench: Path, chosen: list[int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page over the workbench's TopK SAE, to which a gallery is added."""
    root = tmp_path_factory.mktemp("gallery")
    for kind in ("saes", "evaluation"):
        (root / "artifacts" / kind).mkdir(parents=True)
        (root / "artifacts" / kind / "topk").symlink_to(workbench / "artifacts" / kind / "topk")
    source = workbench / "artifacts/features/topk"
    tables = {name: pd.read_parquet(source / name) for name in (store.FEATURES, store.LISTS)}
    tables[store.FEATURES].loc[chosen[1], "label"] = HOSTILE
    lists = tables[store.LISTS]
    lists["words"] = [["dog", "cat"] if feature in chosen[:2] + chosen[-1:] else ["it"] for feature in lists["feature"]]
    lists["word_shares"] = [[0.6, 0.3][: len(words)] for words in lists["words"]]
    for column in ("gained_tokens", "gained"):
        lists[column] = [values[:0] for values in lists[column]]
    pushed = {"feature": chosen[-1], "strength": 0.4, "prompt": "Tom sat.", "seed": 0, "good_share": 0.75}
    gallery = {
        "concepts": [{"feature": feature} for feature in chosen],
        "steering": [{**pushed, "default": " He saw a dog.", "steered": STEERED}],
    }
    with new_folder(root / "artifacts/features/topk", verify(source)) as folder:
        shutil.copy(source / store.EXAMPLES, folder)
        for name, table in tables.items():
            table.to_parquet(folder / name, row_group_size=store.ROWS)
        (folder / store.GALLERY).write_text(json.dumps(gallery))
    with serving(["--artifacts", str(root / "artifacts")], root / "log") as address:
        yield address


def test_a_stranger_sees_concepts_and_what_turning_one_up_does(visit: Visit, chosen: list[int]) -> None:
    page = visit()
    shown = page.locator("#gallery article")
    expect(shown).to_have_count(len(chosen) + 1)
    expect(shown.first.locator(".token.hot").first).to_be_visible()  # its example, once the tokenizer is there
    expect(shown.nth(1).locator("h4")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    expect(shown.nth(8)).not_to_be_visible()
    page.get_by_text("Show 2 more").click()
    expect(shown.nth(8)).to_be_visible()
    default, steered = page.locator("#gallery .before-after dd").all()
    expect(default).to_have_text("Tom sat. He saw a dog.")
    expect(steered).to_have_text(f"Tom sat.{STEERED}")
    assert steered.locator("mark").all_text_contents() == ["Dog", "dog"]
    assert default.locator("mark").count() == 0
    expect(shown.last).to_contain_text("showed in 75% of trial texts")


def test_cards_open_steer_and_are_kept(visit: Visit, chosen: list[int]) -> None:
    page = visit()
    card = page.locator(f'#gallery article[data-feature="{chosen[0]}"]').first
    star = card.get_by_role("button", name="Keep")
    expect(star).to_have_attribute("aria-pressed", "false")
    star.click()
    expect(card.get_by_role("button", name="★ Kept")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("tab", name="Basket")).to_have_attribute("data-count", "1")
    card.get_by_role("button", name="Turn up").click()
    expect(page.get_by_role("tab", name="Steer")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Gallery").click()
    card.locator("h4 button").click()
    expect(page.get_by_role("tab", name="Feature", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page).to_have_url(re.compile(f"feature={chosen[0]}(&|$)"))


def test_an_example_is_read_in_explore(visit: Visit) -> None:
    page = visit()
    expect(page).to_have_url(re.compile("prompt=Once"))  # Explore has read its own example
    page.get_by_role("button", name="Lily was sad").click()
    expect(page.locator("#prompt textarea")).to_have_value(re.compile("^Lily was sad"))
    expect(page.locator("#strip .strip")).to_contain_text("Lily was sad")
    expect(page).to_have_url(re.compile("tab=explore"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit: Visit, theme: str) -> None:
    page = visit(f"?__theme={theme}", 375)
    expect(page.locator("#gallery .token").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
