"""The guard turns away what the page never needs, and passes on the rest unread."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from demo.guard import MAX_BODY, Guard


def status(path: str, method: str = "GET", headers: dict[str, str] | None = None) -> int:
    """The status of a request to a guarded app that answers everything with 200."""
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the guard reads no body")

    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "path": path, "method": method, "headers": raw}
    asyncio.run(Guard(app)(scope, receive, send))
    return int(sent[0]["status"])


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/upload", "/gradio_api/upload_progress", "/UPLOAD", "/gradio_api/file=http://example.org/x",
     "/gradio_api/file=https%3A//example.org", "/gradio_api/file=HTTPS://example.org", "/gradio_api/proxy=https://a.hf.space/"],
)  # fmt: skip
def test_files_and_addresses_are_refused(path: str) -> None:
    assert status(path) == 403
    assert status(path, "POST", {"content-length": "1"}) == 403


def test_a_body_states_its_size_and_is_small() -> None:
    path = "/gradio_api/queue/join"
    assert status(path, "POST") == 411
    assert status(path, "POST", {"content-length": "-1"}) == 411
    assert status(path, "POST", {"content-length": "1", "transfer-encoding": "chunked"}) == 411
    assert status(path, "POST", {"content-length": str(MAX_BODY + 1)}) == 413
    assert status(path, "POST", {"content-length": "9" * 10_000}) == 413
    assert status(path, "POST", {"content-length": str(MAX_BODY)}) == 200


@pytest.mark.parametrize(
    "path", ["/", "/config", "/gradio_api/queue/data", "/gradio_api/file=plot.png", "/assets/index.js"]
)
def test_the_page_itself_passes(path: str) -> None:
    assert status(path) == 200
