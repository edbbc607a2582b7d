"""Folders that are filled to be uploaded: whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `target`, instead of an older one, if the block ends without an error."""
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy(source: Path, target: Path) -> None:
    """Copy a file where there is one."""
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a folder and its subfolders."""
    for path in sorted(source.rglob("*")):
        copy(path, target / path.relative_to(source))


def on_hub(root: Path, name: str) -> bool:
    """Whether a model or data set of this name is the Hub's, and no file or folder that the project in `root` read."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not (root / name).exists() and not ("/" in name and (root / name).parent.is_dir())
