"""Feature, as a person uses it: open by id, walk, test on a text, take along."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_tools.analysis.store import FeatureStore
from tests.conftest import CHROMIUM

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

Visit = Callable[..., Any]


@pytest.fixture
def store(workbench: Path) -> FeatureStore:
    return FeatureStore.open(workbench / "artifacts" / "features" / "topk")


def open_feature(visit: Visit, feature: int, width: int = 1280) -> Any:
    page = visit(f"?tab=feature&sae=topk&feature={feature}", width)
    expect(page.locator("#feature-head .sub")).to_have_text(f"Feature {feature}")
    return page


def go(page: Any, feature: object) -> None:
    page.get_by_label("Feature id").fill(str(feature))
    page.get_by_role("button", name="Open", exact=True).click()


def test_everything_known_is_shown_and_a_neighbour_is_a_click_away(visit: Visit, store: FeatureStore) -> None:
    feature = int(store.table["density"].between(0.01, 0.05).idxmax())
    page = open_feature(visit, feature)
    expect(page.locator("#histogram svg.main-svg").first).to_be_visible()
    assert page.locator("#feature-examples .example").count() > 5
    expect(page.locator("#feature-effects .chip").first).to_be_visible()
    expect(page.locator("#feature-head .said")).to_contain_text("Labels may be wrong")
    nearest = page.locator("#feature-near .pair > div").nth(1).locator("tbody tr")
    found = [int(row.get_attribute("data-feature") or -1) for row in nearest.all()]
    assert found == store.row(feature)["neighbours"].tolist()
    nearest.first.click()
    expect(page.locator("#feature-head .sub")).to_have_text(f"Feature {found[0]}")
    expect(page).to_have_url(re.compile(f"feature={found[0]}(&|$)"))


def test_ids_are_walked_and_a_wrong_one_explained(visit: Visit, store: FeatureStore) -> None:
    page = open_feature(visit, 7)
    page.get_by_role("button", name="Next →").click()
    expect(page.locator("#feature-head .sub")).to_have_text("Feature 8")
    page.get_by_role("button", name="← Previous").click()
    expect(page.locator("#feature-head .sub")).to_have_text("Feature 7")
    go(page, len(store.table))
    expect(page.get_by_text(f"Feature must be a whole number from 0 to {len(store.table) - 1:,}")).to_be_visible()
    expect(page.locator("#feature-head .sub")).to_have_text("Feature 7")
    page.get_by_role("button", name="Random").click()
    expect(page.locator("#feature-head .sub")).not_to_have_text("Feature 7")
    alive = int(page.locator("#feature-head .sub").inner_text().split()[1])
    assert store.table.at[alive, "maximum"] > 0


def test_a_feature_is_tested_on_a_text(visit: Visit) -> None:
    page = open_feature(visit, 7)
    page.locator("#test-text textarea").fill("The little dog was happy.")
    page.get_by_role("button", name="Test", exact=True).click()
    expect(page.locator("#tested .strip")).to_have_text("The little dog was happy.")
    expect(page.locator("#tested .legend")).to_contain_text("Feature 7")
    page.get_by_role("button", name="Next →").click()
    expect(page.locator("#tested .legend")).to_contain_text("Feature 8")


def test_all_of_it_can_be_taken_along(visit: Visit, store: FeatureStore) -> None:
    page = open_feature(visit, 7)
    held = {
        link.inner_text(): base64.b64decode(str(link.get_attribute("href")).split("base64,")[1]).decode()
        for link in page.locator(".take a").all()
    }
    found = json.loads(held["JSON"])
    assert (found["feature"], found["sae"]) == (7, "topk")
    assert found["density"] == pytest.approx(store.row(7)["density"], rel=1e-5)
    assert [each["id"] for each in found["top_tokens"]] == store.row(7)["top_tokens"].tolist()
    assert all(len(each["tokens"]) == len(each["values"]) for each in found["examples"])
    rows = list(csv.DictReader(io.StringIO(held["CSV"])))
    assert [row["text"] for row in rows if row["what"] == "neighbours"] == list(map(str, store.row(7)["neighbours"]))
    assert not [row for row in rows if row["text"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))]
    expect(page.locator("#histogram svg.main-svg").first).to_be_visible()
    with page.expect_download() as saved:
        page.get_by_role("button", name="PNG of the histogram").click()
    assert saved.value.suggested_filename == "feature-7.png"
    assert Path(saved.value.path()).read_bytes().startswith(b"\x89PNG")


def test_a_dead_feature_says_so_and_a_phone_needs_no_sideways_scrolling(visit: Visit, store: FeatureStore) -> None:
    page = open_feature(visit, 7, 375)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    dead = store.table.index[store.table["maximum"] <= 0]
    if len(dead):
        go(page, int(dead[0]))
        expect(page.locator("#feature-head .empty")).to_contain_text("it is dead")
        expect(page.locator("#histogram")).to_be_hidden()
        expect(page.locator("#feature-examples")).to_be_empty()
