"""A visitor of the page without a browser: Gradio's queue protocol over HTTP, as the page's own events use it.

A part is named by its elem_id. The visitor remembers what an answer put into each part and sends it along with the next
event, as a browser does.
"""

from __future__ import annotations

import http.client
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

TIMEOUT = 60.0
Event = dict[str, Any]


class Busy(Exception):  # noqa: N818 - an answer, no fault
    """The page has no room in its queue and says so."""


@dataclass
class Answer:
    """What came of one event."""

    first: float
    """Seconds until the first part of the answer."""
    total: float
    served: float
    """Seconds that the answer itself took, without the queue, as Gradio tells."""
    outputs: list[Any] = field(default_factory=list)
    """Values in the order of the event's outputs, as they are at its end."""


class Visitor:
    """One session. `config` is what `/config` gives: fetched anew unless it is handed over."""

    def __init__(self, address: str, config: dict[str, Any] | None = None) -> None:
        self.host = urlsplit(address).netloc
        self.config = config or json.loads(self._get("/config"))
        self.session = uuid.uuid4().hex
        self._ids = {c["props"].get("elem_id"): c["id"] for c in self.config["components"]}
        self._state = {c["id"] for c in self.config["components"] if c["type"] == "state"}
        self.values = {c["id"]: c["props"].get("value") for c in self.config["components"]}

    def events(self, part: str | int, trigger: str) -> list[Event]:
        """The events that `trigger` of a part starts, by its elem_id or its id."""
        number = self._ids[part] if isinstance(part, str) else part
        return [event for event in self.config["dependencies"] if [number, trigger] in event["targets"]]

    def open(self, **query: object) -> None:
        """Open the page: its load event, and those that follow it."""
        load = next(event for event in self.config["dependencies"] if any(t[1] == "load" for t in event["targets"]))
        self.fire(load, query=query)
        for event in self.config["dependencies"]:
            if event["trigger_after"] == load["id"]:
                self.fire(event)

    def shown(self, part: str) -> Any:
        """What a part holds."""
        return self.values[self._ids[part]]

    def type_in(self, part: str, value: object) -> None:
        """Put a value into a part, as typing does."""
        self.values[self._ids[part]] = value

    def click(self, part: str) -> Answer:
        """Click a button and wait for the end of the answer."""
        return self.fire(self.events(part, "click")[0])

    def act(self, part: str, **data: object) -> list[Answer]:
        """Click an element of HTML that carries `data-…`; then what the page does as its chosen feature changes."""
        act = next(event for event in self.events(part, "click") if self._state & set(event["outputs"]))
        chosen = next(output for output in act["outputs"] if output in self._state)
        return [self.fire(act, data=data), *(self.fire(event) for event in self.events(chosen, "change"))]

    def fire(self, event: Event, data: object = None, query: dict[str, object] | None = None) -> Answer:
        """Start an event and wait for the end of its answer.

        Raises:
            Busy: the queue is full.
            RuntimeError: the answer is an error.
        """
        start = time.perf_counter()
        first = None
        joined = self.join(event, data, query)
        for message in self.messages():
            if message.get("event_id") != joined:
                continue
            if message["msg"] in ("process_generating", "process_completed") and first is None:
                first = time.perf_counter() - start
            if message["msg"] == "process_completed":
                return self._taken(event, message, first or 0.0, time.perf_counter() - start)
        raise RuntimeError(f"the page ended the stream of {event['api_name'] or event['id']} without an answer")

    def join(self, event: Event, data: object = None, query: dict[str, object] | None = None) -> str:
        """Queue an event; its number.

        Raises:
            Busy: the queue is full.
        """
        body = {
            "data": [None if i in self._state else self.values[i] for i in event["inputs"]], "event_data": data,
            "fn_index": event["id"], "trigger_id": (event["targets"] or [[None]])[0][0], "session_hash": self.session,
        }  # fmt: skip
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        try:
            path = "/gradio_api/queue/join?" + urlencode(query or {})
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        if response.status == 503:
            raise Busy(text)
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {text[:200]}")
        return str(json.loads(text)["event_id"])

    def messages(self) -> Iterator[dict[str, Any]]:
        """What the page tells this session, until it has no more; whoever stops reading has left the page."""
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        try:
            connection.request("GET", f"/gradio_api/queue/data?session_hash={self.session}")
            for line in connection.getresponse():
                if line.startswith(b"data: "):
                    message = json.loads(line[6:])
                    if message["msg"] == "close_stream":
                        return
                    yield message
        finally:
            if connection.sock:
                connection.sock.close()
            connection.close()

    def _taken(self, event: Event, message: dict[str, Any], first: float, total: float) -> Answer:
        output = message["output"]
        if not message["success"]:
            raise RuntimeError(f"event {event['id']} failed: {str(output)[:200]}")
        outputs = output.get("data") or []
        for part, value in zip(event["outputs"], outputs, strict=False):
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.values[part] = value.get("value", self.values[part])
            else:
                self.values[part] = value
        return Answer(first, total, float(output.get("duration") or 0.0), outputs)

    def _get(self, path: str) -> str:
        connection = http.client.HTTPConnection(self.host, timeout=TIMEOUT)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()
