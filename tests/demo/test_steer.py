"""The Steer tab as a visitor uses it: push, write, compare, stop, copy the address, and steer by pairs of texts."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.conftest import CHROMIUM

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

Visit = Callable[..., Any]
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{x}}"
ENDED = re.compile("Coloured:|equal:")
# As quick as a finger: between two calls of a test the whole text can be there.
RUN_AND_STOP = """async () => {
  const text = () => document.querySelector('#steered-text .text')?.textContent;
  const before = text();
  document.querySelectorAll('#steer-note p').forEach((said) => { said.textContent = ''; });
  document.querySelector('#steer-run').click();
  while (!text() || text() === before) await new Promise((done) => setTimeout(done, 20));
  document.querySelector('#stop').click();
}"""


def write(page: Any) -> tuple[str, str]:
    """The default and the steered text, when both are there."""
    wipe(page)
    page.locator("#steer-run").click()
    return texts(page)


def wipe(page: Any) -> None:
    """Take out what an earlier run said, so that the next one's last words are the ones waited for."""
    page.evaluate("document.querySelectorAll('#steer-note p').forEach((said) => { said.textContent = ''; })")


def texts(page: Any) -> tuple[str, str]:
    expect(page.locator("#steer-note")).to_contain_text(ENDED)
    return page.locator("#default-text .text").text_content(), page.locator("#steered-text .text").text_content()


def set_strength(page: Any, value: str, row: int = 1) -> None:
    page.get_by_label(f"number input for Strength {row}").fill(value)
    page.get_by_label(f"number input for Strength {row}").press("Tab")


def asked(page: Any) -> dict[str, list[str]]:
    return parse_qs(urlsplit(page.url).query)


def test_a_push_is_written_beside_the_default_and_the_address_says_it(visit: Visit) -> None:
    page = visit("?tab=steer")
    expect(page.locator(".push:visible")).to_have_count(1)
    set_strength(page, "0")
    default, steered = write(page)
    assert default == steered != "Tom was sitting in his room."
    assert default.startswith("Tom was sitting in his room.")
    set_strength(page, "1")
    again, pushed = write(page)
    assert again == default
    assert pushed != default
    assert page.locator("#steered-text .changed").text_content() in pushed
    assert asked(page)["push"][0].endswith(":add:1")
    # Another visitor with this address sees the same.
    other = visit(f"?{urlsplit(page.url).query}")
    assert texts(other) == (default, pushed)


def test_features_are_added_changed_and_taken_out(visit: Visit) -> None:
    page = visit("?tab=steer&push=5:add:0.4,7:clamp:-0.3,9:ablate:0&new_tokens=4")
    texts(page)
    expect(page.locator(".push:visible")).to_have_count(3)
    expect(page.get_by_label("number input for Strength 2")).to_have_value("-0.3")
    expect(page.get_by_label("number input for Strength 3")).to_be_disabled()
    page.locator(".push:visible .remove").first.click()
    expect(page.locator(".push:visible")).to_have_count(2)
    page.locator("#added input, #added textarea").fill("7")
    page.locator("#add").click()
    expect(page.get_by_text("Feature 7 is there already")).to_be_visible()
    page.locator("#added input, #added textarea").fill("11")
    page.locator("#add").click()
    expect(page.locator(".push:visible").nth(2)).to_contain_text("Feature 11")
    page.locator(".push:visible").nth(0).get_by_label("Ablate").check()
    expect(page.get_by_label("number input for Strength 1")).to_be_disabled()
    expect(page).to_have_url(re.compile(r"push=7%3Aablate%3A0%2C9%3Aablate%3A0%2C11%3Aadd%3A0\.4"))


def test_steer_elsewhere_replaces_the_pushes_and_writes_every_time(visit: Visit) -> None:
    page = visit("?tab=feature&feature=3&new_tokens=8")
    for _ in range(2):
        page.get_by_role("tab", name="Feature").click()
        wipe(page)
        page.locator("#feature-head [data-act=steer]").click()
        expect(page.locator("#push-0")).to_contain_text("Feature 3")
        texts(page)
        wipe(page)
        page.locator("#suggestions [data-act=try]").first.click()
        expect(page.locator("#push-0")).not_to_contain_text(re.compile(r"Feature 3\b"))
        texts(page)


def test_stop_stops(visit: Visit) -> None:
    page = visit("?tab=steer&new_tokens=128")
    page.wait_for_timeout(1500)  # a page that is still being filled is behind the model, which ends meanwhile
    for _ in range(5):  # so is a busy browser: the text may be whole before it shows a part
        page.evaluate(RUN_AND_STOP)
        expect(page.locator("#steer-note p").first).to_have_text(re.compile(f"Stopped|{ENDED.pattern}"))
        page.wait_for_timeout(300)  # what was under way when Stop was pressed may still arrive
        stopped, said = (page.locator(where).text_content() for where in ("#steered-text .text", "#steer-note"))
        page.wait_for_timeout(700)
        assert page.locator("#steered-text .text").text_content() == stopped
        _, whole = write(page)
        assert whole.startswith(stopped)
        if stopped != whole:
            break
    assert stopped != whole
    assert said.strip() == "Stopped."


def test_a_direction_is_found_seen_and_steered_by(visit: Visit) -> None:
    page = visit("?tab=steer&new_tokens=8")
    page.get_by_label("Push along a direction").check()
    page.locator("#find").click()
    expect(page.locator("#ways .way")).to_have_count(4)
    expect(page.locator("#direction-summary")).to_contain_text("typical activations long")
    page.locator("#ways [data-act=choose]").first.click()
    expect(page.get_by_label("Chosen features alone")).to_be_checked()
    default, _ = write(page)
    page.get_by_label("The direction itself").check()
    page.get_by_label("number input for Strength", exact=True).fill("1")
    again, steered = write(page)
    assert default == again != steered
    assert asked(page)["steer_by"] == ["pairs"]
    page.get_by_label("Layer").fill("0")
    page.locator("#find").click()
    expect(page.locator("#direction-summary")).to_contain_text("The SAE reads")
    expect(page.locator("#ways .way")).to_have_count(0)


def test_folds_open_on_a_phone_without_sideways_scrolling(visit: Visit) -> None:
    page = visit("?tab=steer&new_tokens=8&__theme=dark", 375)
    page.locator("#steer-prompt textarea").fill(HOSTILE)
    default, _ = write(page)
    assert default.startswith(HOSTILE)
    for fold in ("settings", "changes", "sweep", "python"):
        page.locator(f"#{fold} button").first.click()
    page.locator("#sweep-run").click()
    expect(page.locator("#curves svg.main-svg").first).to_be_visible()
    expect(page.locator("#swept .swept")).to_have_count(5)
    expect(page.locator("#python pre")).to_contain_text("steer(sae, site")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
