"""The documents of a data set, one after another: texts, lists of token ids, or chats, never all in memory."""

from __future__ import annotations

import dataclasses
import lzma
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import fsspec
from datasets import IterableDataset, load_dataset
from httpx2 import HTTPError, TransportError
from huggingface_hub import HfApi
from huggingface_hub.constants import HF_HUB_OFFLINE
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.texts import check_dataset, files_of, kind_of

if sys.version_info >= (3, 14):
    from compression.zstd import ZstdError
else:
    from backports.zstd import ZstdError

ROWS = 64
"""Rows that are read at once."""
PIECE = 2**20
"""Characters after which a text file begins a new document at the end of the line: it is never whole in memory."""
HUB_SECONDS = 4.0
"""Longest wait for the Hub's first answer."""
UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, HTTPError, zlib.error, lzma.LZMAError, ZstdError)
"""What `datasets` and the decompressors raise where a file is damaged, is not what its name says, or stays away."""


def read_documents(dataset: Dataset) -> Iterator[Any]:
    """What the column of a data set holds, in the order of the files, or shuffled if `shuffle_buffer` says so.

    Raises:
        InputError: no such file, Hub id, revision, configuration, split or column; no network; a damaged file.
    """
    check_dataset(dataset)
    column = dataset.column
    try:
        rows = _open(dataset)
        if dataset.shuffle_buffer:
            # One file at a time: of several, each would hold a part of its rows beside the buffer.
            rows = rows.shuffle(dataset.seed, buffer_size=dataset.shuffle_buffer, max_buffer_input_shards=1)
        for batch in rows.iter(batch_size=ROWS):
            if column not in batch:
                raise InputError(f"dataset {dataset.path!r} has no column {column!r}; it has: {', '.join(batch)}.")
            yield from batch[column]
    except UNREADABLE as error:
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[:2]).rstrip(".")
        raise InputError(f"dataset {dataset.path!r} cannot be read: {reason}.") from None


def check_readable(dataset: Dataset) -> None:
    """Read the first document and no more, to refuse at once what could not be read later.

    Raises:
        InputError: as `read_documents`.
    """
    next(read_documents(dataclasses.replace(dataset, shuffle_buffer=0)), None)


def _open(dataset: Dataset) -> IterableDataset:
    files = files_of(dataset.path)
    if not files:
        _check_hub(dataset)
        return load_dataset(
            dataset.path, dataset.config, split=dataset.split, revision=dataset.revision, streaming=True
        )
    kind = str(kind_of(files[0]))
    names = [str(file) for file in files]
    if kind == "text":
        return IterableDataset.from_generator(_text_rows, gen_kwargs={"names": names})
    return load_dataset(kind, data_files=names, split="train", streaming=True)


def _text_rows(names: list[str]) -> Iterator[dict[str, str]]:
    for name in names:
        with fsspec.open(name, "rt", encoding="utf-8", compression="infer") as file:
            while piece := file.read(PIECE):
                yield {"text": piece + file.readline()}


def _check_hub(dataset: Dataset) -> None:
    """Ask the Hub for a data set: `datasets` itself would try for half a minute where there is no network."""
    if HF_HUB_OFFLINE and dataset.revision is None:
        return  # `datasets` looks in its cache, whatever revision is there
    where = f"dataset {dataset.path!r}" + (f" at revision {dataset.revision!r}" if dataset.revision else "")
    try:
        HfApi().dataset_info(dataset.path, revision=dataset.revision, timeout=HUB_SECONDS)
    except RevisionNotFoundError:
        raise InputError(f"{where} does not exist on the Hub; give a commit, branch or tag of it.") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{where} is neither a file or folder here nor on the Hub, or it is private; "
            "check its name, or sign in by `hf auth login`."
        ) from None
    except (TransportError, ConnectionError):
        raise InputError(
            f"{where} cannot be read: the Hub cannot be reached; connect to the network, or give a local file."
        ) from None
