"""The door of the page: requests that it never needs are turned away before Gradio sees them.

Gradio accepts uploads though no component takes a file, fetches any public URL through `file=http…`, and reads bodies
of any size. This page sends only small JSON.
"""

from __future__ import annotations

from urllib.parse import unquote

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

MAX_BODY = 64 * 1024
WITH_BODY = {"POST", "PUT", "PATCH"}


class Guard:
    """ASGI middleware: 403 for uploads and fetched URLs, 411 for a body of unstated size, 413 for a large one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = _refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await refusal(scope, receive, send)


def _refusal(scope: Scope) -> PlainTextResponse | None:
    path = unquote(scope["path"]).lower()
    if "/upload" in path or "/proxy=" in path or "file=http" in path or "file/http" in path:
        return PlainTextResponse("This page takes no files and fetches no addresses.", 403)
    if scope["method"] not in WITH_BODY:
        return None
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if not length.isdecimal() or "transfer-encoding" in headers:
        return PlainTextResponse("State the size of the body (content-length).", 411)
    # Leading zeros aside, seven digits are already too many; int() of a million digits would take long.
    if len(length.lstrip("0")) > 6 or int(length) > MAX_BODY:
        return PlainTextResponse(f"At most {MAX_BODY:,} bytes are read.", 413)
    return None
