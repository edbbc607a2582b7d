"""What holds on every tab: it fits, it can be read, it can't be broken, and its address brings it back."""

from __future__ import annotations

import html
import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from demo import tabs
from sae_tools.reports.render import visible
from tests.conftest import REPO
from tests.demo.asking import announced, ask, config, status
from tests.demo.conftest import Visit
from tests.demo.hostile import TEXTS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect

TABS = {tab.id: tab.title for tab in tabs.TABS}
SERIOUS = ("serious", "critical")
OF_COLOUR = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}


def go_to(page: Any, tab: str) -> None:
    """Open a tab, from the list of those that do not fit where it is there."""
    button = page.locator(f"button[role=tab][data-tab-id={tab}]:visible")
    if not button.count():
        page.locator(".overflow-menu > button").click()
        button = page.locator(".overflow-dropdown button", has_text=TABS[tab])
    button.click()
    expect(page.locator(f"#tab-{tab}")).not_to_have_css("display", "none")


@pytest.mark.parametrize(("theme", "rules"), [("light", {}), ("dark", OF_COLOUR)], ids=["light", "dark"])
def test_every_tab_fits_a_phone_and_can_be_read(visit: Visit, theme: str, rules: dict[str, Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page = visit(f"?__theme={theme}", 375)
    faults = []
    for tab in TABS:
        go_to(page, tab)
        page.wait_for_timeout(150)
        if page.evaluate("document.documentElement.scrollWidth") > 375:
            faults.append(f"{tab} scrolls sideways")
        found = axe.run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
        faults += [
            f"{tab}: {violation['id']}, {node['html'][:200]}"
            for violation in found
            if violation["impact"] in SERIOUS
            for node in violation["nodes"]
        ]
    assert not faults


@pytest.mark.parametrize("tab", TABS)
def test_an_address_opens_a_tab(visit: Visit, tab: str) -> None:
    page = visit(f"?tab={tab}")
    expect(page.locator(f"#tab-{tab}")).not_to_have_css("display", "none")


def shown(text: str) -> str:
    """What a reader sees of a text: what would act is spelled out."""
    return html.unescape(re.sub(r'<span class="mark">|</span>', "", visible(text))).replace("\n", "⏎\n")


def test_hostile_texts_are_shown_as_they_are(visit: Visit) -> None:
    page = visit("?tab=explore")
    for text in TEXTS:
        page.locator("#prompt textarea").fill(text)
        page.locator("#run").click()
        page.wait_for_function(
            "wanted => document.querySelector('#strip .strip')?.textContent === wanted", arg=shown(text), timeout=10_000
        )
    assert page.locator("img[src=x], iframe, #strip script").count() == 0


def test_the_address_carries_hostile_text(visit: Visit) -> None:
    address = f"?tab=explore&feature=3&prompt={quote(TEXTS[0])}&q={quote(TEXTS[1])}"
    for _ in range(2):
        page = visit(address)
        expect(page.locator("#strip .strip")).to_have_text(TEXTS[0])
        expect(page).to_have_url(re.compile("prompt=.*onerror"))
        address = "?" + page.url.partition("?")[2]


def test_a_wrong_address_is_explained_and_the_rest_of_it_honoured(visit: Visit) -> None:
    page = visit("?tab=explore&feature=99999999&prompt=A+red+dog")
    expect(page.get_by_text(re.compile("In the address: Feature must be a whole number from 0 to"))).to_be_visible()
    expect(page.locator("#strip .strip")).to_have_text("A red dog")


def test_the_door_is_shut_to_what_the_page_does_not_need(server: str) -> None:
    api = f"{server}/gradio_api"
    assert status(f"{api}/upload", b"x") == 403
    assert status(f"{api}/file=https://example.org") == 403
    assert announced(server, "/gradio_api/queue/join", 1_000_000) == 413
    for path in ("openapi.json", "docs", "monitoring", "monitoring/summary"):
        assert status(f"{server}/{path}") in (403, 404)


VALUES = ("NaN", "-Infinity", "1e308", "true", '"5"', '"\\ud800"', "null", "[[1]]", '{"a": 1}', "-1")


@pytest.mark.parametrize("turn", range(3))
def test_no_value_anywhere_brings_out_a_traceback_or_a_path(server: str, turn: int) -> None:
    """Each event is sent three of the values, its neighbours three others."""
    page = config(server)
    names = {component["id"]: component["props"].get("elem_id") for component in page["components"]}
    sae = json.dumps(next(c["props"]["value"] for c in page["components"] if c["props"].get("elem_id") == "sae"))
    events = [event for event in page["dependencies"] if event["backend_fn"] and event["inputs"]]

    def fault(place: int) -> str:
        event, value = events[place], VALUES[(3 * place + turn) % len(VALUES)]
        inputs = [sae if names[i] == "sae" else value for i in event["inputs"]]
        seen = ask(server, event["id"], f"[{','.join(inputs)}]", f'{{"act": "open", "feature": {value}}}')
        leaks = [leak for leak in ("Traceback", str(REPO), ".py", "site-packages") if leak in seen]
        refused = '"success":false' in seen and event["api_visibility"] != "public"  # to a program it is an error
        where = (event["id"], value, [names[i] for i in event["inputs"]])
        return f"{where}: {seen}" if leaks or refused or "process_completed" not in seen else ""

    with ThreadPoolExecutor(6) as visitors:
        assert not [found for found in visitors.map(fault, range(len(events))) if found]
