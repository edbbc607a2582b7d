"""The basket in a browser: kept over a reload, taken along, put back; and what cannot be put back is told."""

from __future__ import annotations

import csv
import io
import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

from demo.limits import Refused
from demo.tabs.basket import MAX_LOADED, read
from tests.demo.conftest import unfold

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
Visit = Callable[..., Any]
HOSTILE = '=HYPERLINK("x") <img src=x onerror=alert(1)>'


def put_back(page: Any, entries: object) -> None:
    unfold(page, "Put a basket back")
    page.locator("#basket-json textarea").fill(json.dumps(entries))
    page.get_by_role("button", name="Add these").click()


def saved(page: Any, name: str) -> str:
    link = page.get_by_role("link", name=name).get_attribute("href")
    return b64decode(link.partition("base64,")[2]).decode()


def test_a_basket_is_kept_taken_along_and_put_back(visit: Visit) -> None:
    page = visit("?sae=topk&tab=basket")
    expect(page.locator("#basket")).to_contain_text("Nothing is kept yet")
    entries = [
        {"sae": "topk", "feature": 3, "label": "dog"},
        {"sae": "topk", "feature": 7, "label": HOSTILE},
        {"sae": "standard", "feature": 5, "label": "other"},
        {"sae": "elsewhere", "feature": 5, "label": "far"},
    ]
    put_back(page, [*entries, {"feature": "x"}, entries[0]])
    rows = page.locator("#basket tbody tr")
    expect(rows).to_have_count(4)
    expect(page.get_by_role("tab", name="Basket")).to_have_attribute("data-count", "4")
    expect(rows.nth(1)).to_contain_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0
    assert json.loads(saved(page, "Save as JSON")) == entries
    table = list(csv.DictReader(io.StringIO(saved(page, "Save as CSV"))))
    assert [row["label"] for row in table] == ["dog", f"'{HOSTILE}", "other", "far"]
    assert float(table[0]["maximum"]) > 0
    expect(rows.nth(3)).to_contain_text("This page has no such feature.")
    link = rows.nth(2).get_by_role("link", name="Open in standard")
    assert link.get_attribute("href") == "?sae=standard&feature=5&tab=feature"

    page.wait_for_timeout(3000)  # streams that a reload cuts are told of as errors
    page.reload()
    expect(rows).to_have_count(4)
    rows.nth(0).get_by_role("button", name="Remove").click()
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text(HOSTILE)
    page.get_by_role("button", name="Steer with 1 of topk").click()
    expect(page.get_by_role("tab", name="Steer")).to_have_attribute("aria-selected", "true")
    page.get_by_role("tab", name="Basket").click()
    page.get_by_role("button", name="Empty").click()
    expect(page.locator("#basket")).to_contain_text("Nothing is kept yet")


def test_a_phone_needs_no_sideways_scrolling(visit: Visit) -> None:
    page = visit("?sae=topk&tab=basket", 375)
    put_back(page, [{"sae": "topk", "feature": 3, "label": "a long label " * 5}, {"sae": "x" * 60, "feature": 1}])
    expect(page.locator("#basket tbody tr")).to_have_count(2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "Paste a basket"),
        (None, "Paste a basket"),
        ("{", "no JSON"),
        ("[" * 5_000, "no JSON"),
        ("[]", "No feature"),
        ('[{"sae": "topk", "feature": -1}, {"sae": "topk", "feature": true}, 5]', "No feature"),
        ('{"sae": "topk", "feature": 1}', "No feature"),
        (" " * MAX_LOADED + "[]", "characters"),
    ],
)
def test_what_is_no_basket_is_told(text: object, told: str) -> None:
    with pytest.raises(Refused, match=told):
        read(text)


def test_each_feature_is_read_once() -> None:
    entry = {"sae": "topk", "feature": 1, "label": "a"}
    assert read(json.dumps([entry, {**entry, "label": "b"}, {"sae": "topk", "feature": 2}])) == [
        {**entry, "label": "b"},
        {"sae": "topk", "feature": 2, "label": ""},
    ]
