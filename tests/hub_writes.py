"""A Hub that can be written to, beside `tests.hub`, which reads: accounts, repositories, uploads by LFS, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from tests.hub import Answers, Refused, Server

WRITES = re.compile(
    r"/api/(?P<kind>model|dataset|space)s/(?P<id>[^/]+/[^/]+)/(?P<what>preupload/main|commit/main|settings)"
)
BATCH = re.compile(r"/(?P<kind>spaces/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
LARGE = (".safetensors", ".parquet")
"""What goes by LFS; all else travels inside the commit."""


class WritableHub(Server):
    """`accounts`: what `whoami` says, by token. What was done to it is in `commits`, `uploads` and `private`."""

    def __init__(self, folder: Path, accounts: dict[str, dict[str, Any]]) -> None:
        super().__init__(folder, answers=_Writes)
        self.accounts = accounts
        self.objects = folder.parent / "objects"
        self.objects.mkdir()
        self.commits: list[tuple[str, list[tuple[str, str]]]] = []
        """Of each, the kind of repository and what was done: ("file", "README.md")."""
        self.uploads: list[str] = []
        """The sha256 of each large file, as often as it was sent."""
        self.private: set[str] = set()
        self.no_space_for: set[str] = set()
        """Owners that may not create Spaces."""
        self.received: Callable[[int], None] = lambda _: None
        """Called with the number of large files that have arrived."""

    def repository(self, kind: str, repo: str) -> Path:
        return self.folder / ("" if kind == "model" else f"{kind}s") / repo


class _Writes(Answers):
    server: WritableHub
    status: int
    """Of the answer."""

    def do_PUT(self) -> None:  # noqa: N802
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))))

    def _answer(self, body: bytes) -> None:
        path, self.status = urlsplit(self.path).path, 200
        try:
            if (found := self._written(path, body)) is None:
                if self._token() not in (None, *self.server.accounts):
                    raise Refused(401, "", "Invalid credentials in Authorization header")
                super()._answer(body)
            else:
                self._send(self.status, json.dumps(found).encode())
        except Refused as refused:
            told = {"error": refused.message, "errors": [{"message": refused.message}]}
            headers = {"X-Error-Message": refused.message} | ({"X-Error-Code": refused.code} if refused.code else {})
            self._send(refused.status, json.dumps(told).encode(), headers)

    def _written(self, path: str, body: bytes) -> Any:
        """The answer to what a reading Hub does not know; None for the rest."""
        if path.startswith("/objects/"):  # the address that the batch gave; who has it may write there
            return self._store(path.rpartition("/")[2], body)
        known = {"/api/whoami-v2": self._account, "/api/validate-yaml": lambda: self._validate(json.loads(body)),
                 "/api/repos/create": lambda: self._create(json.loads(body))}  # fmt: skip
        if path in known:
            return known[path]()
        if match := BATCH.fullmatch(path):
            self._allow(match["id"])
            return self._batch(json.loads(body)["objects"])
        if match := WRITES.fullmatch(path):
            self._allow(match["id"])
            where = self.server.repository(match["kind"], match["id"])
            if match["what"] == "settings":
                return self._set(f"{match['kind']} {match['id']}", json.loads(body))
            if match["what"] == "preupload/main":
                return {"files": [self._mode(where, file["path"]) for file in json.loads(body)["files"]]}
            return self._commit(match["kind"], where, [json.loads(line) for line in body.splitlines()])
        return None

    def _token(self) -> str | None:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None

    def _account(self) -> dict[str, Any]:
        if (token := self._token()) not in self.server.accounts:
            raise Refused(401, "", "Invalid username or password.")
        return self.server.accounts[str(token)]

    def _allow(self, repo: str) -> None:
        owner, account = repo.partition("/")[0], self._account()
        if owner != account["name"] and owner not in [org["name"] for org in account["orgs"]]:
            raise Refused(403, "", f"You don't have the rights to write to {owner}")

    def _validate(self, asked: dict[str, Any]) -> dict[str, Any]:
        front = yaml.safe_load(asked["content"].split("---")[1])
        if not re.fullmatch(r"[a-z0-9.-]+", front["license"]):
            raise Refused(400, "", f'"license" must be one of the known ones, not {front["license"]}')
        return {"errors": [], "warnings": []}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        kind, repo = (
            asked.get("type", "model"),
            f"{asked.get('organization') or self._account()['name']}/{asked['name']}",
        )
        self._allow(repo)
        if kind == "space" and repo.partition("/")[0] in self.server.no_space_for:
            raise Refused(402, "", "You need a paid plan to create Gradio Spaces")
        folder = self.server.repository(kind, repo)
        url = f"http://127.0.0.1:{self.server.server_port}/{'' if kind == 'model' else kind + 's/'}{repo}"
        if folder.is_dir():
            self.status = 409
            return {"error": "You already created this repository", "url": url}
        folder.mkdir(parents=True)
        (folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")
        return self._set(f"{kind} {repo}", asked) | {"url": url}

    def _set(self, which: str, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("visibility") == "private":
            self.server.private.add(which)
        return {}

    def _mode(self, where: Path, name: str) -> dict[str, Any]:
        large, path = name.endswith(LARGE), where / name
        content = path.read_bytes() if path.is_file() else None
        oid = None
        if content is not None:
            git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            oid = hashlib.sha256(content).hexdigest() if large else git
        return {"path": name, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _batch(self, asked: list[dict[str, Any]]) -> dict[str, Any]:
        objects = []
        for each in asked:
            href = f"http://127.0.0.1:{self.server.server_port}/objects/{each['oid']}"
            missing = not (self.server.objects / each["oid"]).is_file()
            objects.append(each | ({"actions": {"upload": {"href": href}}} if missing else {}))
        return {"transfer": "basic", "objects": objects}

    def _store(self, oid: str, content: bytes) -> dict[str, Any]:
        assert hashlib.sha256(content).hexdigest() == oid
        (self.server.objects / oid).write_bytes(content)
        self.server.uploads.append(oid)
        self.server.received(len(self.server.uploads))
        return {}

    def _commit(self, kind: str, where: Path, lines: list[dict[str, Any]]) -> dict[str, Any]:
        """All of it or nothing, as git."""
        new = where.with_name(f".{where.name}.new")
        shutil.copytree(where, new)
        done: list[tuple[str, str]] = []
        for key, value in ((line["key"], line["value"]) for line in lines):
            if key == "header":
                continue
            path = new / value["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            if key == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                shutil.copyfile(self.server.objects / value["oid"], path)
            else:
                path.unlink()
            done.append((key, value["path"]))
        shutil.rmtree(where)
        new.rename(where)
        self.server.commits.append((kind, done))
        return {"commitUrl": f"{self.path}/1", "commitOid": "1" * 40}

    def _about(self, *, kind: str, id: str, **asked: Any) -> Any:  # noqa: A002
        found = super()._about(kind=kind, id=id, **asked)
        if isinstance(found, dict) and "tags" in found:
            readme = self.server.repository(kind.removesuffix("s"), id) / "README.md"
            front = yaml.safe_load(readme.read_text().split("---")[1]) if readme.is_file() else {}
            found |= {"tags": front.get("tags", []), "private": f"{kind.removesuffix('s')} {id}" in self.server.private}
        return found
