"""Where a data set lies: a file, a folder or a glob of files here, or the Hub; checked before anything is read.

Imports nothing slow: a wrong path is refused at once.
"""

from __future__ import annotations

import glob
from pathlib import Path

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.sources import COMPRESSIONS, looks_local

KINDS = {".parquet": "parquet", ".jsonl": "json", ".json": "json", ".csv": "csv", ".txt": "text"}
"""What a file's name ends with, and the `datasets` library's name for it."""
PLAIN = (".jsonl", ".json", ".csv", ".txt")
"""Those that may be compressed as a whole; parquet compresses itself."""


def kind_of(path: Path) -> str | None:
    """The name under which the `datasets` library reads such a file."""
    compressed = path.suffix in COMPRESSIONS
    suffix = Path(path.stem).suffix if compressed else path.suffix
    return KINDS.get(suffix) if suffix in PLAIN or not compressed else None


def files_of(path: str) -> list[Path]:
    """The files of a local data set in sorted order, those of a folder and its subfolders too; none of a Hub id."""
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        return sorted(file for file in Path(path).rglob("*") if file.is_file() and kind_of(file))
    names = glob.glob(path, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    return sorted(file for file in map(Path, names) if file.is_file())


def check_dataset(dataset: Dataset) -> None:
    """Refuse files that are missing, of an unknown kind, or certain to hold too little text, without reading them.

    Raises:
        InputError: naming the path and the remedy.
    """
    path = Path(dataset.path)
    files = files_of(dataset.path)
    if not files:
        if path.is_dir():
            raise InputError(f"dataset folder {dataset.path!r} holds no file of a known kind: {', '.join(KINDS)}.")
        if path.suffix in (*KINDS, *COMPRESSIONS) or glob.has_magic(dataset.path) or looks_local(dataset.path):
            raise InputError(
                f"dataset file {dataset.path!r} does not exist; "
                "give an existing file or folder, or a Hub id such as NeelNanda/pile-10k."
            )
        return
    for file in files:
        if kind_of(file) is None:
            raise InputError(f"dataset file {str(file)!r} is of an unknown kind; use one of: {', '.join(KINDS)}.")
        if file.stat().st_size == 0:
            raise InputError(f"dataset file {str(file)!r} is empty; give a file with text.")
    kinds = {kind_of(file): file for file in files}
    if len(kinds) > 1:
        first, second, *_ = kinds.values()
        raise InputError(
            f"dataset {dataset.path!r} holds files of several kinds, such as {first.name} and {second.name}; "
            f"give those of one kind: {(path if path.is_dir() else path.parent) / f'*{first.suffix}'}."
        )
    size, need = sum(file.stat().st_size for file in files), dataset.n_tokens + dataset.held_out_tokens
    if size < need and all(file.suffix in PLAIN for file in files):  # a token is at least a byte
        raise InputError(
            f"dataset file {dataset.path!r} has {size:,} bytes, too few for {need:,} tokens; "
            "lower dataset.n_tokens and dataset.held_out_tokens, or give more text."
        )
