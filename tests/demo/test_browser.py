"""The page in a real browser, over real artifacts: what a visitor sees, and that nothing leaves the machine."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from tests.conftest import CHROMIUM, REPO

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
SLOW = 60_000
expect.set_options(timeout=SLOW)  # a machine may be busy with other work

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{x}}"


@pytest.fixture(scope="module")
def server(workbench: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page, run as its user runs it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("SPACE_ID", None)
    command = [sys.executable, "-m", "demo", f"--artifacts={workbench / 'artifacts'}", f"--port={port}"]
    log = tmp_path_factory.mktemp("page") / "log"
    with (
        log.open("w") as output,
        subprocess.Popen(command, cwd=REPO, env=environment, stdout=output, stderr=subprocess.STDOUT) as process,
    ):
        address = f"http://127.0.0.1:{port}"
        try:
            wait_for(address, process, log)
            yield address
        finally:
            process.terminate()


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the page did not start: {log.read_text()}")


Visit = Callable[..., Any]


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Visit]:
    """`visit(query, width)` opens the page; afterwards: no console error, no dialog, no request to elsewhere."""
    problems: list[str] = []
    pages: list[Any] = []

    def saw_request(request: Any) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            problems.append(f"request to {request.url}")

    def saw_dialog(dialog: Any) -> None:
        problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def open_page(query: str = "", width: int = 1280) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.set_default_timeout(SLOW)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", saw_request)
        page.on("dialog", saw_dialog)
        page.goto(f"{server}/{query}")
        expect(page.locator("#table tr[data-feature]").first).to_be_visible()
        return page

    yield open_page
    for page in pages:
        page.close()
    assert problems == []


def run_prompt(page: Any, text: str) -> None:
    page.locator("#prompt textarea").fill(text)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.locator("#strip .strip")).to_contain_text(text.split()[-1])


def strip_text(page: Any) -> str:
    return str(page.locator("#strip .strip").evaluate("element => element.textContent"))


def test_the_page_is_never_empty(visit: Visit) -> None:
    page = visit()
    expect(page.locator("h1")).to_have_text("Look inside a language model")
    assert strip_text(page) == page.locator("#prompt textarea").input_value()
    expect(page.locator("#table tr.chosen")).to_have_count(1)
    expect(page.locator("#card-head h3")).not_to_be_empty()
    expect(page.locator("#card-body .example").first).to_be_visible()
    expect(page.locator("#histogram svg.main-svg").first).to_be_visible()
    assert page.locator("#strip .token[style]").count() > 0
    for word in ("Model", "Site", "L0", "Explained variance", "CE recovered"):
        expect(page.locator("#badges")).to_contain_text(word)


def test_what_comes_next_unfolds(visit: Visit) -> None:
    page = visit("?prompt=" + quote("Once upon a time there was a little"))
    page.locator("#following summary").click()
    first = page.locator("#following tbody tr").first
    expect(first).to_contain_text("girl")
    expect(first.locator("td")).to_have_count(3)


def test_type_run_and_pick(visit: Visit) -> None:
    page = visit()
    run_prompt(page, "The cat and the dog ran to the big red house")
    feature = page.locator("#table tr[data-feature]:not(.chosen)").first.get_attribute("data-feature")
    row = page.locator(f'#table tr[data-feature="{feature}"]')
    row.click()
    expect(page.locator("#table tr.chosen")).to_have_attribute("data-feature", feature)
    expect(page.locator("#card-head .sub")).to_contain_text(f"Feature {feature} ")
    expect(page.get_by_label("Feature id")).to_have_value(feature)
    value = row.locator(".bar").inner_text()
    assert value in {token.get_attribute("title") for token in page.locator("#strip .token").all()}
    page.get_by_role("button", name="Colour by the strongest").click()
    expect(page.locator("#table tr.chosen")).to_have_count(0)
    expect(page.locator("#strip .legend")).to_contain_text("strongest feature on each token")


def test_a_feature_is_opened_by_its_id_and_a_wrong_id_explained(visit: Visit) -> None:
    page = visit()
    box = page.get_by_label("Feature id")
    box.fill("7")
    box.press("Enter")
    expect(page.locator("#card-head .sub")).to_contain_text("Feature 7 ")
    box.fill("-1")
    page.get_by_role("button", name="Open", exact=True).click()
    expect(page.get_by_text(re.compile("Feature must be a whole number from 0 to"))).to_be_visible()
    expect(page.locator("#card-head .sub")).to_contain_text("Feature 7 ")


def steer(page: Any, strength: str) -> tuple[str, str]:
    """The default and the steered text."""
    page.get_by_label("number input for Strength").fill(strength)
    page.get_by_label("number input for Strength").press("Tab")
    # What an earlier run said is wiped, so that this run's last words are the ones waited for.
    page.locator("#steer-note p").evaluate("e => { e.textContent = '' }")
    page.get_by_role("button", name="Write both").click()
    expect(page.locator("#steer-note")).to_contain_text(re.compile("Coloured:|equal:"))
    default, steered = (
        page.locator(f"#{name}-text .text").evaluate("e => e.textContent") for name in ("default", "steered")
    )
    return str(default), str(steered)


def test_steering_writes_two_texts_that_differ_only_by_the_feature(visit: Visit) -> None:
    page = visit()
    page.get_by_role("tab", name="Steer").click()
    default, steered = steer(page, "0")
    prompt = page.locator("#steer-prompt textarea").input_value()
    assert default == steered
    assert default.startswith(prompt)
    assert len(default) > len(prompt)
    again, pushed = steer(page, "1")
    assert again == default
    assert pushed != default
    page.get_by_label("Ablate").check()
    expect(page.get_by_label("number input for Strength")).to_be_disabled()


def test_both_models_side_by_side(visit: Visit) -> None:
    page = visit()
    page.get_by_role("tab", name="Base vs finetuned").click()
    expect(page.locator("#compared .strip")).to_have_count(2)
    expect(page.locator("#transfer-metrics table")).to_be_visible()
    expect(page.locator("#scatter svg.main-svg").first).to_be_visible()
    page.get_by_role("tab", name="About").click()
    expect(page.get_by_text("How good is this SAE?")).to_be_visible()


def test_hostile_text_is_shown_as_it_is(visit: Visit) -> None:
    page = visit()
    run_prompt(page, HOSTILE)
    assert strip_text(page) == HOSTILE
    page.get_by_role("tab", name="Steer").click()
    page.locator("#steer-prompt textarea").fill(HOSTILE)
    default, _ = steer(page, "1")
    assert default.startswith(HOSTILE)
    page.get_by_role("tab", name="Base vs finetuned").click()
    page.locator("#compare-prompt textarea").fill(HOSTILE)
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator("#compared .strip").first).to_have_text(HOSTILE)
    assert page.locator("img[src=x]").count() == 0


def test_the_address_opens_a_view(visit: Visit) -> None:
    page = visit(f"?feature=3&prompt={quote(HOSTILE)}")
    assert strip_text(page) == HOSTILE
    expect(page.locator("#card-head .sub")).to_contain_text("Feature 3 ")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(visit: Visit, theme: str) -> None:
    page = visit(f"?__theme={theme}", 375)
    for name in ("Explore", "Steer", "Base vs finetuned", "About"):
        page.get_by_role("tab", name=name).click()
        expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, name


def status(url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def announced(server: str, path: str, size: int) -> int:
    """The answer to a POST that announces a body of `size` bytes and sends none: a refusal does not wait for it."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=10)
    try:
        connection.putrequest("POST", path)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def test_the_door_is_shut_to_what_the_page_does_not_need(server: str) -> None:
    api = f"{server}/gradio_api"
    assert status(f"{api}/upload", b"x") == 403
    assert status(f"{api}/file=https://example.org") == 403
    assert announced(server, "/gradio_api/queue/join", 1_000_000) == 413
    assert status(f"{api}/run/explore", b"{}") in (403, 404, 422)
    for path in ("openapi.json", "docs", "monitoring", "monitoring/summary"):
        assert status(f"{server}/{path}") in (403, 404)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e308", "true", '"5"', "null", "[1]", '{"a": 1}'])
def test_no_value_brings_out_a_traceback_or_a_path(server: str, value: str) -> None:
    with urllib.request.urlopen(f"{server}/config", timeout=10) as answer:
        config = json.load(answer)
    labels = {c["id"]: c["props"].get("label") for c in config["components"]}
    steering = next(d for d in config["dependencies"] if "Strength" in [labels[i] for i in d["inputs"]])
    name = next(c["props"]["value"] for c in config["components"] if labels[c["id"]] == "SAE")
    good = {
        "SAE": json.dumps(name), "Mode": '"Add"', "Strength": value, "Prompt to continue": '"A dog"', "New tokens": "2",
        "Temperature": value, "Seed": "0",
    }  # fmt: skip
    data = ",".join(good.get(labels[i] or "", "null") for i in steering["inputs"])
    session = f"test{abs(hash(value))}"
    body = f'{{"data": [{data}], "fn_index": {steering["id"]}, "session_hash": "{session}"}}'.encode()
    assert status(f"{server}/gradio_api/queue/join", body) == 200
    seen = ""
    with urllib.request.urlopen(f"{server}/gradio_api/queue/data?session_hash={session}", timeout=20) as stream:
        for line in stream:
            seen += line.decode()
            if "process_completed" in seen:
                break
    assert '"success":true' in seen
    assert '"level":"warning"' in seen
    for leak in ("Traceback", str(REPO), ".py", "site-packages"):
        assert leak not in seen
