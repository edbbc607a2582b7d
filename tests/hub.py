"""A Hugging Face Hub in a thread: serves a folder of repositories at 127.0.0.1, by the Hub's paths, headers and errors.

    folder/owner/name/config.json          a model; `name` alone is an id too
    folder/owner/name@v2/config.json       the same model at its branch, tag or commit `v2`
    folder/datasets/owner/name/a.parquet   a data set
    folder/spaces/owner/name/app.py        a Space

`huggingface_hub` reads where the Hub is when it is imported: run the code under test in a process of its own, with
`environment(endpoint, home)`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(
    r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+?(?:/[^/]+?)??)"
    r"(?:/(?P<what>revision|tree|paths-info|refs)(?:/(?P<revision>[^/]+)(?:/(?P<path>.+))?)?)?"
)
FILE = re.compile(r"/(?P<kind>datasets/|spaces/)?(?P<id>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")


@contextmanager
def hub(folder: Path, gated: Collection[str] = ()) -> Iterator[str]:
    """The endpoint of a Hub that serves `folder`; the files of `gated` ids are refused to all."""
    with serving(Server(folder, gated)) as endpoint:
        yield endpoint


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Its endpoint, while it answers in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def environment(endpoint: str, home: Path) -> dict[str, str]:
    """The environment of a process that takes `endpoint` for the Hub and keeps what it loads in `home`."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    return inherited | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }


class Refused(Exception):  # noqa: N818
    """An answer, as the Hub gives it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status, self.code, self.message = status, code, message


class _Snapshot:
    """The files of one repository at one revision."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}

    @cached_property
    def etags(self) -> dict[str, str]:
        return {name: hashlib.sha1(path.read_bytes()).hexdigest() for name, path in self.files.items()}

    @cached_property
    def commit(self) -> str:
        return hashlib.sha1(json.dumps(self.etags).encode()).hexdigest()

    def entries(self, below: str, deep: bool) -> list[dict[str, Any]]:
        """Files and folders under the folder `below`."""
        start = f"{below}/" if below else ""
        found: dict[str, dict[str, Any]] = {}
        for name in self.files:
            if not name.startswith(start):
                continue
            parts = name.removeprefix(start).split("/")
            for i in range(1, len(parts) if deep else min(2, len(parts))):
                path = start + "/".join(parts[:i])
                found[path] = {"type": "directory", "path": path, "size": 0, "oid": self.commit}
            if deep or len(parts) == 1:
                found[name] = self.entry(name)
        return list(found.values())

    def entry(self, name: str) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": self.files[name].stat().st_size, "oid": self.etags[name]}


class Answers(BaseHTTPRequestHandler):
    """What a Hub that only reads answers."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self._answer(b"")

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, body: bytes) -> None:
        url = urlsplit(self.path)
        try:
            if match := FILE.fullmatch(url.path):
                self._file(*(unquote(match[key] or "") for key in ("kind", "id", "revision", "path")))
            elif match := API.fullmatch(url.path):
                values = {key: unquote(value or "") for key, value in match.groupdict().items()}
                self._send(200, json.dumps(self._about(**values, query=url.query, body=body)).encode())
            else:
                raise Refused(404, "NotFound", f"no such path: {url.path}")
        except Refused as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.message}
            self._send(refused.status, json.dumps({"error": refused.message}).encode(), headers)

    def _snapshot(self, kind: str, repo: str, revision: str) -> _Snapshot:
        at = self.server.folder / kind.removesuffix("/").replace("models", "") / repo
        if ".." in repo.split("/") or not at.is_dir():
            # To whom is not signed in the Hub tells no missing repository from a private one.
            raise Refused(401, "RepoNotFound", "Invalid username or password.")
        main, *others = _Snapshot(at), *map(_Snapshot, at.parent.glob(f"{at.name}@*"))
        for snapshot in (main, *others):
            if revision in (snapshot.folder.name.partition("@")[2] or "main", snapshot.commit):
                return snapshot
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def _about(self, kind: str, id: str, what: str, revision: str, path: str, query: str, body: bytes) -> Any:  # noqa: A002
        if what == "refs":
            commit = self._snapshot(kind, id, "main").commit
            branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
            return {"branches": [branch], "converts": [], "tags": []}
        snapshot = self._snapshot(kind, id, revision or "main")
        asked = parse_qs(query)
        if what == "tree":
            return snapshot.entries(path, asked.get("recursive", ["false"])[0].lower() == "true")
        if what == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith(b"{") else parse_qs(body.decode()).get("paths", [])
            everything = {entry["path"]: entry for entry in snapshot.entries("", deep=True)}
            return [everything[path] for path in paths if path in everything]
        gated = "manual" if id in self.server.gated else False
        siblings = [{"rfilename": name} for name in snapshot.files]
        return {"_id": id, "id": id, "sha": snapshot.commit, "siblings": siblings, "gated": gated, "private": False,
                "disabled": False, "tags": [], "downloads": 0, "likes": 0}  # fmt: skip

    def _file(self, kind: str, repo: str, revision: str, name: str) -> None:
        snapshot = self._snapshot(kind, repo, revision)
        if repo in self.server.gated:
            status = 403 if self.headers.get("Authorization") else 401
            raise Refused(status, "GatedRepo", f"Access to {repo} is restricted.")
        commit = {"X-Repo-Commit": snapshot.commit}
        if name not in snapshot.files:
            self._send(404, b"", commit | {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"})
            return
        content = snapshot.files[name].read_bytes()
        headers = commit | {"ETag": f'"{snapshot.etags[name]}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if part is None or not (part[1] or part[2]):
            self._send(200, content, headers)
            return
        first = int(part[1]) if part[1] else len(content) - int(part[2])
        last = min(int(part[2]), len(content) - 1) if part[1] and part[2] else len(content) - 1
        if first > last:
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
            return
        where = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
        self._send(206, content[first : last + 1], headers | where)

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class Server(ThreadingHTTPServer):
    """A Hub of the repositories in a folder."""

    def __init__(self, folder: Path, gated: Collection[str] = (), answers: type[Answers] = Answers) -> None:
        super().__init__(("127.0.0.1", 0), answers)
        self.folder, self.gated = folder, gated
