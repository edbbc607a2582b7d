"""Write-once folders: whole or absent, and checked before use.

`new_folder` fills a temporary folder beside the target; `workspace` one that outlives a kill, for long work to resume.
`commit` writes `manifest.json` (size and sha256 of every file) last and renames the folder into place: a reader never
sees half of one. A name that begins with a dot is a temporary one. Knows nothing of what the files mean.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sae_tools.common.errors import ArtifactError, InputError
from sae_tools.common.faults import reach

MANIFEST = "manifest.json"
REMEDY = "run `dvc repro` to make it again"


@contextmanager
def new_folder(target: Path, about: dict[str, Any] | None = None) -> Iterator[Path]:
    """Yield an empty folder that becomes `target`, replacing an older one, if the block ends without an error.

    `about` is kept in the manifest and comes back from `verify`; the block may add to it.
    """
    target = Path(target)
    temporary = target.parent / f".{target.name}.tmp-{os.getpid()}"
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        temporary.mkdir()
        try:
            yield temporary
            commit(temporary, target, about or {})
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def workspace(target: Path, identity: dict[str, Any], exclusive: bool = True) -> Iterator[Path]:
    """Yield the folder beside `target` in which a run of this `identity` works, with what a killed one left in it.

    `identity` is everything that decides the result, as JSON: other work never meets these files. The folder, and those
    of other identities, go when the block ends without an error. Of several processes on one task one is `exclusive`:
    it locks the target and cleans up.

    Raises:
        ArtifactError: another run works on this target.
    """
    target = Path(target)
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    folder = target.parent / f".{target.name}.partial-{digest[:12]}"
    with lock(target) if exclusive else nullcontext():
        if exclusive:
            _sweep(target)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
        if exclusive:
            for left in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(left)


@contextmanager
def lock(target: Path) -> Iterator[None]:
    """Keep other processes that ask for this lock from `target` while the block lasts; a kill frees it.

    Raises:
        ArtifactError: naming the process that holds it.
    """
    path = target.parent / f".{target.name}.lock"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder removes it: one opened just before that is a lock on nothing, while a third may make it anew.
            free = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            free = False
        if not free:
            file.seek(0)
            raise ArtifactError(
                f"{target} is being made by process {file.read() or '?'}; wait for it, or end it, and run again."
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink()


def commit(folder: Path, target: Path, about: dict[str, Any], digests: dict[str, str] | None = None) -> None:
    """Make a filled folder the artifact `target`, replacing an older one.

    `digests` are the sha256 that are known already, by name inside the folder; the others are computed.
    """
    for left in folder.rglob(".*"):
        if left.is_file():
            left.unlink()  # a killed writer's
    _write_manifest(folder, about, digests or {})
    old = target.parent / f".{target.name}.old-{os.getpid()}"
    reach("folder-before-rename")
    if target.exists():
        target.rename(old)
    reach("folder-between-renames")
    folder.rename(target)
    _sync(target.parent)
    reach("folder-renamed")
    shutil.rmtree(old, ignore_errors=True)


def verify(folder: Path, contents: bool = True) -> dict[str, Any]:
    """Check a folder against its manifest and return the manifest's `about`.

    With `contents=False` only names and sizes are compared.

    Raises:
        ArtifactError: naming the file, what was expected and what was found.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"{folder} does not exist; {REMEDY}.")
    files, about = read_manifest(folder)
    for name, expected in files.items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != expected["size"]:
            found = "nothing" if size is None else f"{size} bytes"
            raise ArtifactError(f"{path} should have {expected['size']} bytes but {found} is there; {REMEDY}.")
        if contents and (digest := sha256(path)) != expected["sha256"]:
            raise ArtifactError(f"{path} is damaged: sha256 is {digest}, not {expected['sha256']}; {REMEDY}.")
    for path in _files(folder):
        if path.relative_to(folder).as_posix() not in files:
            raise ArtifactError(f"{path} is an extra file that the manifest does not name; remove it, or {REMEDY}.")
    return about


def read_manifest(folder: Path) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """What the manifest says of each file, by its name inside the folder: `size`, `sha256`; and its `about`.

    Raises:
        ArtifactError: there is no manifest, or something else in its place.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = {
            str(name): {"size": int(entry["size"]), "sha256": str(entry["sha256"])}
            for name, entry in manifest["files"].items()
        }
        if any(Path(name).is_absolute() or ".." in Path(name).parts for name in files):
            raise ValueError
        return files, dict(manifest["about"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        raise ArtifactError(f"{folder / MANIFEST} is missing or not a manifest; {REMEDY}.") from None


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that becomes `path`, whole and on disk, if the block ends without an error.

    Raises:
        ArtifactError: the disk is full, or writing is not permitted.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            temporary.chmod(0o644)  # safetensors writes 0600
            _sync(temporary)
            reach("file-before-rename")
            temporary.replace(path)
            _sync(path.parent)
            reach("file-written")
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write sorted, indented JSON with a final newline, atomically."""
    with new_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n")


def require_space(folder: Path, n_bytes: int, what: str) -> None:
    """Refuse to start what writes `n_bytes` to `folder` when the disk, with 10% to spare, does not hold it.

    Raises:
        InputError: GB needed and GB free.
    """
    folder = folder.absolute()
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    free, needed = shutil.disk_usage(nearest).free, 1.1 * n_bytes
    if free < needed:
        raise InputError(
            f"{what} needs {needed / 1e9:,.2f} GB of disk, 10% to spare included, but {free / 1e9:,.2f} GB are free in "
            f"{nearest}; free some, or lower the settings that it follows from."
        )


def sha256(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell in a sentence why writing in the folder of `path` failed, where the disk or its permissions are the reason.

    Raises:
        ArtifactError: that sentence.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        elsewhere = not Path(getattr(error, "filename", None) or path).is_relative_to(path.parent)
        reasons = (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EROFS, errno.EACCES)
        # safetensors' errors carry the number in their text alone.
        known = [n for n in reasons if getattr(error, "errno", None) == n or f"(os error {n})" in str(error)]
        if elsewhere or not known:
            raise
        raise ArtifactError(
            f"{path} cannot be written: {os.strerror(known[0]).lower()}; free some space or permit writing there, and "
            "run again."
        ) from None


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


def _files(folder: Path) -> list[Path]:
    """The files of an artifact but for the manifest, temporary ones left out."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(path for path in files if path != folder / MANIFEST)


def _write_manifest(folder: Path, about: dict[str, Any], digests: dict[str, str]) -> None:
    files = {}
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        files[name] = {"size": path.stat().st_size, "sha256": digests.get(name) or sha256(path)}
        path.chmod(0o644)
        _sync(path)
    _sync(folder)
    write_json(folder / MANIFEST, {"about": about, "files": files})
    reach("manifest-written")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
