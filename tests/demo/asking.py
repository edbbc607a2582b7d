"""Ask the page as anyone may: by HTTP, with any JSON, past what a browser would let through."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import urllib.error
import urllib.request
from typing import Any

_sessions = itertools.count()


def config(server: str) -> dict[str, Any]:
    """What the page is made of: `components` and `dependencies`."""
    with urllib.request.urlopen(f"{server}/config", timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait_until_open(server: str) -> None:
    """Return once the page shows its SAE, which is when its load event ends; before, every event is refused."""
    events = config(server)["dependencies"]
    load = next(event["id"] for event in events if any(trigger == "load" for _, trigger in event["targets"]))
    assert '"success":true' in ask(server, load, "[]")


def ask(server: str, event: int, data: str, event_data: str = "null", session: str | None = None) -> str:
    """All that the server says on one event; `data` is the JSON of its inputs' values, in order."""
    session = session or f"test{os.getpid()}x{next(_sessions)}"
    body = f'{{"data": {data}, "event_data": {event_data}, "fn_index": {event}, "session_hash": "{session}"}}'
    if (code := status(f"{server}/gradio_api/queue/join", body.encode())) != 200:
        return f"refused: {code}"
    seen = ""
    with urllib.request.urlopen(f"{server}/gradio_api/queue/data?session_hash={session}", timeout=60) as stream:
        for line in stream:
            seen += line.decode()
            if "process_completed" in seen:
                return seen
    return seen


def status(url: str, body: bytes | None = None) -> int:
    """The status of the answer to a GET, or to a POST of JSON."""
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
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
