"""The page as its user runs it, and a browser that tells what should not happen on it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conftest import REPO
from tests.demo.asking import wait_until_open

SLOW = 60_000
"""Milliseconds to wait for what a busy machine may be slow to show."""
CUT = ("AbortError", "Connection errored out", "Unprocessable Entity")
"""What Gradio says of the streams that a page leaves when it is loaded again; of a page that is loaded once, faults."""
Visit = Callable[..., Any]


@pytest.fixture(scope="session")
def server(workbench: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page over `workbench`."""
    log = tmp_path_factory.mktemp("page") / "log"
    with serving(["--artifacts", str(workbench / "artifacts")], log) as address:
        yield address


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class serving:  # noqa: N801 - reads as a verb
    """Run `python -m demo` while the block lasts; its address."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        self.arguments, self.log = arguments, log

    def __enter__(self) -> str:
        port = free_port()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        environment.pop("SPACE_ID", None)
        self.output = self.log.open("w")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", *self.arguments, f"--port={port}"], cwd=REPO, env=environment,
            stdout=self.output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        address = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(address, timeout=5).close()
            except OSError:
                time.sleep(0.2)
            else:
                wait_until_open(address)
                return address
        self.__exit__()
        pytest.fail(f"the page did not start: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(30)
        self.output.close()


def unfold(page: Any, name: str) -> None:
    """Open a fold, and give it the second in which nobody types yet: Gradio fills its parts once more."""
    page.get_by_role("button", name=name).click()
    page.wait_for_timeout(1000)


@pytest.fixture
def visit(browser: Any, server: str) -> Iterator[Visit]:
    """`visit(query, width)` opens the page; afterwards: no console error, no dialog, no request to elsewhere."""
    from playwright.sync_api import expect

    expect.set_options(timeout=SLOW)
    problems: list[str] = []
    messages: list[tuple[Any, str]] = []
    pages: list[Any] = []
    loads: Counter[Any] = Counter()

    def saw_request(request: Any) -> None:
        if request.is_navigation_request():
            loads[request.frame.page] += 1
        parts = urlsplit(request.url)
        if parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1":
            problems.append(f"request to {request.url}")

    def saw_message(message: Any) -> None:
        if message.type == "error":
            messages.append((message.page, message.text))

    def saw_dialog(dialog: Any) -> None:
        problems.append(f"dialog {dialog.message}")
        dialog.dismiss()

    def open_page(query: str = "", width: int = 1280) -> Any:
        page = browser.new_page(viewport={"width": width, "height": 900})
        pages.append(page)
        page.set_default_timeout(SLOW)
        page.on("console", saw_message)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", saw_request)
        page.on("dialog", saw_dialog)
        page.goto(f"{server}/{query}")
        expect(page.locator("#badges .badges")).to_be_visible()
        return page

    yield open_page
    for page in pages:
        page.close()
    cut = {page for page in pages if loads[page] > 1}
    faults = [text for page, text in messages if page not in cut or not any(words in text for words in CUT)]
    assert problems + faults == []
