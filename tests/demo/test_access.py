"""Ports that are taken, and who may ask what."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from demo.access import Access, free_port
from sae_tools.common.errors import InputError
from tests.conftest import REPO


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody listens."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_taken_port_gives_way_to_a_free_one(taken: int) -> None:
    port = free_port("127.0.0.1", taken)
    assert port > taken
    with socket.socket() as own:
        own.bind(("127.0.0.1", port))
    assert free_port("127.0.0.1", port) == port


@pytest.mark.parametrize(("host", "port", "sentence"), [
    ("127.0.0.1", 0, "from 1 to 65535"),
    ("127.0.0.1", 70_000, "from 1 to 65535"),
    ("192.0.2.1", 7860, "cannot listen on 192.0.2.1:7860"),
    ("no such host", 7860, "give another --host"),
])  # fmt: skip
def test_a_place_that_cannot_be_had_is_refused(host: str, port: int, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        free_port(host, port)


@pytest.mark.parametrize(("host", "api", "on_spaces", "expected"), [
    ("127.0.0.1", None, False, True),
    ("localhost", None, False, True),
    ("127.0.0.1", False, False, False),
    ("0.0.0.0", None, False, False),
    ("0.0.0.0", True, False, True),
    ("0.0.0.0", None, True, False),
    ("0.0.0.0", True, True, True),
])  # fmt: skip
def test_programs_may_ask_a_public_page_only_where_one_says_so(
    host: str, api: bool | None, on_spaces: bool, expected: bool
) -> None:
    assert Access.of(host, 7999, api, False, on_spaces).api is expected


def test_mcp_brings_the_endpoints_along_or_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    for absent in (version, lambda name: "2.3.0"):
        monkeypatch.setattr(importlib.metadata, "version", absent)
        with pytest.raises(InputError, match="pip install 'mcp"):
            Access.of("127.0.0.1", 7999, None, True, False)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.30.0")
    assert Access.of("0.0.0.0", 7999, None, True, True).api
    with pytest.raises(InputError, match="--no-api"):
        Access.of("127.0.0.1", 7999, False, True, False)


def test_the_command_refuses_in_one_sentence() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "demo", "--artifacts", "nowhere", "--port", "99999"],
        cwd=REPO, capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    assert made.returncode == 2
    assert len(made.stderr.strip().splitlines()) == 1
