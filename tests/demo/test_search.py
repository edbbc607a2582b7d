"""The search in a browser: by word, by range, by address; and that it refuses in words."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from demo import limits
from demo.limits import Refused

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
Visit = Callable[..., Any]
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def table(workbench: Path) -> pd.DataFrame:
    """The features of the SAE that the page opens first."""
    found = pd.read_parquet(workbench / "artifacts/features/topk/features.parquet")
    return found.set_index("feature") if "feature" in found.columns else found


def ids(page: Any) -> list[int]:
    return [int(row.get_attribute("data-feature")) for row in page.locator("#search-found tbody tr").all()]


def test_a_word_finds_features_and_a_row_opens_one(visit: Visit, table: pd.DataFrame) -> None:
    page = visit("?sae=topk")
    page.keyboard.press("/")
    box = page.locator("#search-text input, #search-text textarea")
    expect(box).to_be_focused()
    box.fill("dog")
    box.press("Enter")
    count = page.locator(".found-count")
    expect(count).to_contain_text("about “dog”")
    found = ids(page)
    labels = table["label"].str.lower().str.contains("dog")
    assert labels[found[0]]
    expect(page).to_have_url(re.compile("q=dog"))
    page.locator("#search-found tbody tr").first.locator("button.name").click()
    expect(page.get_by_role("tab", name="Feature", exact=True)).to_have_attribute("aria-selected", "true")
    expect(page).to_have_url(re.compile(f"feature={found[0]}(&|$)"))


def test_the_address_asks_for_a_word_a_place_an_order_and_a_range(visit: Visit, table: pd.DataFrame) -> None:
    page = visit("?sae=topk&tab=search&q=dog&in=label&sort=seldom&low=0.5&high=20")
    expect(page.locator(".found-count")).to_contain_text("about “dog”")
    density = table["density"]
    named = table["label"].str.lower().str.contains("dog") & (density >= 0.005) & (density <= 0.2)
    expected = density[named].sort_values(kind="stable").index.tolist()
    assert ids(page) == expected[:40]
    assert expected


def test_all_features_are_leafed_through(visit: Visit, table: pd.DataFrame) -> None:
    page = visit("?sae=topk&tab=search&sort=often")
    alive = table["density"][table["maximum"] > 0].sort_values(ascending=False, kind="stable").index.tolist()
    expect(page.locator(".found-count")).to_contain_text(f"1–40 of {len(alive):,} features")
    assert ids(page) == alive[:40]
    page.get_by_role("button", name="Next →").click()
    expect(page.locator(".found-count")).to_contain_text("41–80 of")
    assert ids(page) == alive[40:80]
    page.get_by_role("button", name="← Previous").click()
    expect(page.locator(".found-count")).to_contain_text("1–40 of")


def test_nothing_found_and_hostile_text_are_told_as_they_are(visit: Visit) -> None:
    page = visit("?tab=search")
    box = page.locator("#search-text input, #search-text textarea")
    box.fill(HOSTILE)
    box.press("Enter")
    expect(page.locator("#search-found")).to_contain_text(f"about “{HOSTILE}”")
    assert page.locator("img[src=x]").count() == 0


def test_a_wrong_address_is_told(visit: Visit) -> None:
    page = visit("?tab=search&in=nowhere&low=many")
    expect(page.get_by_text("In the address: in must be one of: anywhere, label, fires, promotes.")).to_be_visible()
    expect(page.get_by_text("In the address: low must be a number, not 'many'.")).to_be_visible()
    expect(page.locator(".found-count")).to_be_visible()


def test_a_phone_needs_no_sideways_scrolling(visit: Visit) -> None:
    page = visit("?tab=search&q=dog", 375)
    expect(page.locator("#search-found tbody tr").first).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("value", [None, "", "   ", 5, ["a"]])
def test_nothing_is_looked_for(value: object) -> None:
    assert limits.search(value) == ""


@pytest.mark.parametrize("value", ["a" * 101, "a \ud800"])
def test_a_search_that_is_too_long_or_broken_is_refused(value: str) -> None:
    with pytest.raises(Refused):
        limits.search(value)
