"""Explore, as a person uses it: type, pick a token, pick a feature, compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from tests.conftest import CHROMIUM
from tests.demo.conftest import unfold

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

Visit = Callable[..., Any]
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{x}}"


def explore(visit: Visit, query: str = "", width: int = 1280) -> Any:
    page = visit(f"?tab=explore{query}", width)
    expect(page.locator("#table tr[data-feature]").first).to_be_visible()
    return page


def run_prompt(page: Any, text: str) -> None:
    page.locator("#prompt textarea").fill(text)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#strip .strip")).to_have_text(text)


def rows(page: Any) -> list[str]:
    return [str(row.get_attribute("data-feature")) for row in page.locator("#table tr[data-feature]").all()]


def test_a_text_is_read_and_its_first_feature_shown(visit: Visit) -> None:
    page = explore(visit)
    expect(page.locator("#table tr.chosen")).to_have_count(1)
    expect(page.locator("#card-body h3")).not_to_be_empty()
    run_prompt(page, "The cat and the dog ran to the big red house")
    feature = page.locator("#table tr[data-feature]:not(.chosen)").nth(1).get_attribute("data-feature")
    row = page.locator(f'#table tr[data-feature="{feature}"]')
    row.click()
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-feature", feature)
    expect(page.locator("#card-body .sub")).to_have_text(f"Feature {feature}")
    expect(page.locator("#card-body .example").first).to_be_visible()
    value = row.locator(".bar").inner_text()
    assert value in [token.get_attribute("title") for token in page.locator("#strip .token").all()]
    expect(page.locator("#strip .valued small").first).to_have_text(value)
    assert f"feature={feature}" in page.url


def test_tokens_are_walked_by_keys_and_left_again(visit: Visit) -> None:
    page = explore(visit)
    whole = rows(page)
    third = page.locator("#strip .token").nth(3)
    third.click()
    expect(page.locator("#table h4")).to_contain_text("fire on")
    expect(page.locator("#table .link")).to_be_visible()
    chosen = page.locator('#strip .token[aria-pressed="true"]')
    expect(chosen).to_have_attribute("data-token", "3")
    expect(chosen).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(chosen).to_have_attribute("data-token", "4")
    texts = {text.strip("␣ ") for text in page.locator("#table td:nth-child(2)").all_inner_texts()}
    assert texts == {page.locator("#strip .token").nth(4).inner_text().strip()}
    assert "token=4" in page.url
    page.get_by_role("button", name="← the whole text").click()
    expect(page.locator("#table .link")).to_have_count(0)
    assert rows(page) == whole


def test_order_and_common_features_are_chosen(visit: Visit) -> None:
    page = explore(visit)
    page.get_by_label("Largest value first").check()
    expect(page).to_have_url(re.compile("order=value"))
    values = [float(v.replace(",", "")) for v in page.locator("#table td.bar").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    shares = [t.strip("%<") for t in page.locator("#table td.id").all_inner_texts()]
    assert all(float(each) <= 10 for each in shares)
    page.get_by_label("Hide features that fire on more than 10% of tokens").uncheck()
    expect(page.locator("#table p.note")).not_to_contain_text("hidden")


def test_a_new_text_shows_its_own_first_feature_until_a_person_chooses(visit: Visit) -> None:
    page = explore(visit)
    page.locator(".prompt-examples button").nth(3).click()
    expect(page.locator("#strip .strip")).to_contain_text("ROMEO")
    expect(page.locator("#table tbody tr").first).to_have_class("chosen")
    page.locator("#table tbody tr").nth(5).click()
    chosen = page.locator("#table tbody tr").nth(5).get_attribute("data-feature")
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-feature", chosen)
    run_prompt(page, page.locator("#prompt textarea").input_value() + " I love you.")
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-feature", chosen)
    page.get_by_role("button", name="Colour by the strongest feature").click()
    expect(page.locator("#table tr.chosen")).to_have_count(0)
    expect(page.locator("#strip .legend")).to_contain_text("strongest feature on each token")


def test_what_follows_and_what_is_missed(visit: Visit) -> None:
    page = explore(visit, "&prompt=" + quote("Once upon a time there was a little"))
    page.get_by_role("button", name="What comes next, with and without the SAE").click()
    rows = page.locator("#following tbody tr")
    expect(rows.nth(9)).to_be_visible()
    expect(rows.first).to_contain_text("girl")
    model, spliced, change = (float(re.sub("[^-+.0-9]", "", t)) for t in rows.first.locator("td").all_inner_texts()[1:])
    assert change == pytest.approx(spliced - model, abs=1.1)
    expect(page.locator("#following .strip .token[style]").first).to_be_visible()


def test_two_texts_are_told_apart(visit: Visit) -> None:
    page = explore(visit, "&prompt=" + quote("The dog ran to the park."))
    unfold(page, "Compare with a second text")
    page.locator("#second-text textarea").fill("The dog ran to the park.")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#apart p.empty")).to_have_count(2)
    page.locator("#second-text textarea").fill("Lily was sad and cried.")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#apart .strip")).to_have_text(["The dog ran to the park.", "Lily was sad and cried."])
    first = page.locator("#apart table").first.locator("tbody tr").first
    feature = first.get_attribute("data-feature")
    first.click()
    expect(page.locator("#apart tr.chosen").first).to_have_attribute("data-feature", feature)
    assert "second=" in page.url


def test_hostile_text_is_shown_as_it_is_and_an_empty_one_refused(visit: Visit) -> None:
    page = explore(visit)
    run_prompt(page, HOSTILE)
    page.locator("#prompt textarea").fill("  ")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("The prompt is empty.")).to_be_visible()
    expect(page.locator("#strip .strip")).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_the_address_opens_the_same_view_on_a_phone(visit: Visit) -> None:
    page = explore(
        visit, f"&feature=5&token=1&order=value&prompt={quote('A little dog.')}&second={quote('A cat.')}", 375
    )
    expect(page.locator("#card-body .sub")).to_have_text("Feature 5")
    expect(page.locator('#strip .token[aria-pressed="true"]')).to_have_attribute("data-token", "1")
    expect(page.get_by_label("Largest value first")).to_be_checked()
    page.get_by_role("button", name="Compare with a second text").click()
    expect(page.locator("#apart .strip")).to_have_text(["A little dog.", "A cat."])
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
