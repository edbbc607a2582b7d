"""Write-once folders: whole or absent, and checked before use.

`new_folder` fills a temporary folder beside the target, writes `manifest.json` (size and sha256 of every file) last,
and renames the folder into place, so a reader never sees half of one. Knows nothing of what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sae_tools.errors import ArtifactError

MANIFEST = "manifest.json"


@contextmanager
def new_folder(target: Path, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield an empty folder that becomes `target`, replacing an older one, if the block ends without an error.

    `about` is kept in the manifest and comes back from `verify`; the block may add to it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep(target)
    temporary, old = (target.parent / f".{target.name}.{what}-{os.getpid()}" for what in ("tmp", "old"))
    temporary.mkdir()
    try:
        yield temporary
        _write_manifest(temporary, about or {})
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        _sync(target.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def verify(folder: Path, contents: bool = True) -> dict[str, Any]:
    """Check a folder against its manifest and return the manifest's `about`.

    With `contents=False` only names and sizes are compared.

    Raises:
        ArtifactError: naming the file, what was expected and what was found.
    """
    folder = Path(folder)
    remedy = "run `dvc repro` to make it again"
    if not folder.is_dir():
        raise ArtifactError(f"{folder} does not exist; {remedy}.")
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files, about = manifest["files"], manifest["about"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ArtifactError(f"{folder / MANIFEST} is missing or not a manifest; {remedy}.") from None
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["size"]:
            found = "nothing" if size is None else f"{size} bytes"
            raise ArtifactError(f"{path} should have {expected['size']} bytes but {found} is there; {remedy}.")
        if contents and (digest := _sha256(path)) != expected["sha256"]:
            raise ArtifactError(f"{path} is damaged: sha256 is {digest}, not {expected['sha256']}; {remedy}.")
    return dict(about)


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON with a final newline, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")
    temporary.replace(path)


def _sweep(target: Path) -> None:
    """Remove what killed processes left beside `target`, or put an old folder back that one of them had moved aside."""
    for left in target.parent.glob(f".{target.name}.*-*"):
        kind, _, process = left.name.removeprefix(f".{target.name}.").partition("-")
        if kind not in ("tmp", "old") or not process.isdecimal() or _runs(int(process)):
            continue
        if kind == "old" and not target.exists():
            left.rename(target)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    """Whether another process of this number is alive."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_manifest(folder: Path, about: dict[str, Any]) -> None:
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        files[path.relative_to(folder).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(path)}
        path.chmod(0o644)  # safetensors writes 0600
        _sync(path)
    write_json(folder / MANIFEST, {"about": about, "files": files})
    _sync(folder / MANIFEST)
    _sync(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
