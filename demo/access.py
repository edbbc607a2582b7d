"""Where the page listens, and whether programs may ask too. Knows no Gradio."""

from __future__ import annotations

import errno
import importlib.metadata
import ipaddress
import socket
from dataclasses import dataclass

from sae_tools.common.errors import InputError

TRIED = 100


@dataclass(frozen=True)
class Access:
    """How the page is reached."""

    host: str
    port: int
    """The one to begin at."""
    api: bool
    """Whether it has named endpoints for programs."""
    mcp: bool
    """Whether these are tools for MCP clients too."""

    def address(self, port: int) -> str:
        """Where a browser finds it."""
        return f"http://{'localhost' if self.host == '0.0.0.0' else self.host}:{port}"

    @classmethod
    def of(cls, host: str, port: int, api: bool | None, mcp: bool, on_spaces: bool) -> Access:
        """What is asked for, if it can be had; `api` None is on where only this machine can ask, or `mcp` wants it.

        Raises:
            InputError: as `free_port`; `mcp` without `api`, or without the package that it needs.
        """
        if mcp and api is False:
            raise InputError("--mcp offers the endpoints that --no-api takes away; leave one of them out.")
        if mcp and not _has_mcp():
            # Not "gradio[mcp]": that holds pydantic back to a version that is too old for the rest.
            raise InputError("--mcp needs version 1 of the package mcp: pip install 'mcp>=1.21,<2'.")
        private = _is_loopback(host) and not on_spaces
        free_port(host, port)
        return cls(host, port, private or mcp if api is None else api, mcp)


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens on at `host`.

    Raises:
        InputError: no such port, no such address on this machine, or `TRIED` ports in a row are taken.
    """
    if not 1 <= port <= 65535:
        raise InputError(f"Port {port} does not exist; give one from 1 to 65535.")
    last = min(port + TRIED, 65536)
    for candidate in range(port, last):
        if _is_free(host, candidate):
            return candidate
    raise InputError(f"The ports {port} to {last - 1} are all taken; give another one with --port.")


def _is_free(host: str, port: int) -> bool:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # As the server does: a port on which old connections only linger is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise InputError(f"The page cannot listen on {host}:{port}: {error.strerror}; give another --host.") from None
    return True


def _has_mcp() -> bool:
    try:
        return importlib.metadata.version("mcp").startswith("1.")
    except importlib.metadata.PackageNotFoundError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
