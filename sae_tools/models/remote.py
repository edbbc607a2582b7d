"""What the Hub says of a model, before anything large is read: each refusal is one sentence."""

from __future__ import annotations

import functools
import logging
from pathlib import Path

import httpx2
from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from sae_tools.common.errors import InputError
from sae_tools.models.sources import ADAPTER, ADAPTER_WEIGHTS

logger = logging.getLogger(__name__)
PATIENCE = 3.0
"""Seconds that the Hub has to answer, once."""
CONFIG = "config.json"
OF_ADAPTER = [ADAPTER, ADAPTER_WEIGHTS, "*token*", "vocab*", "merges.txt", "chat_template*"]
"""What is read of an adapter."""


@functools.cache
def find(name: str, revision: str | None, needed: str = CONFIG) -> str | Path:
    """Where to read a model of the Hub: at its id, or in a folder, that of an adapter or of what the cache has kept.

    It has the file `needed`, or is an adapter.

    Raises:
        InputError: no such repository or revision, no model in it, it is closed to the reader, or out of reach and not
            in the cache.
    """
    try:
        if _has(name, revision, ADAPTER):
            return Path(snapshot_download(name, revision=revision, allow_patterns=OF_ADAPTER))
        if not _has(name, revision, needed):
            raise InputError(f"{name!r} is not what is looked for: it has no {needed}; give another repository.")
        return name
    except (httpx2.TransportError, OfflineModeIsEnabled):
        kept = [try_to_load_from_cache(name, file, revision=revision) for file in (ADAPTER, needed)]
        paths = [path for path in kept if isinstance(path, str)]
        if not paths:
            raise _refusal(name, revision, "is not in the cache and the Hub cannot be reached; connect to the network, "
                           "or give a folder written by save_pretrained") from None  # fmt: skip
        logger.warning("the Hub cannot be reached: %s is read from the cache", name)
        return Path(paths[0]).parent


def fetch(name: str, revision: str | None, file: str) -> Path:
    """A file of a model that `find` has found."""
    if isinstance(place := find(name, revision), Path):
        return place / file
    return Path(hf_hub_download(name, file, revision=revision))


def files_of(name: str, revision: str | None) -> list[str]:
    """Names of the files of a model that `find` has found."""
    if isinstance(place := find(name, revision), Path):
        return [path.name for path in place.iterdir()]
    try:
        return HfApi().list_repo_files(name, revision=revision)
    except (HfHubHTTPError, httpx2.TransportError):
        return []


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _has(name: str, revision: str | None, file: str) -> bool:
    """Whether a model's repository has a file."""
    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision), timeout=PATIENCE)
        return True
    except RemoteEntryNotFoundError:
        return False
    except GatedRepoError:
        raise _refusal(
            name, revision, "is gated; accept its terms at its page on the Hub, then log in with `hf auth login`"
        ) from None
    except RevisionNotFoundError:
        raise InputError(
            f"model {name!r} has no revision {revision!r} on the Hub; give a branch, tag or commit."
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"model {name!r} is neither a folder here nor a model on the Hub that you may read; correct the name, or "
            "log in with `hf auth login` if it is private."
        ) from None
    except HfHubHTTPError as error:
        raise _refusal(name, revision, f"cannot be had from the Hub: {first_line(error)}; try again") from None


def _refusal(name: str, revision: str | None, what: str) -> InputError:
    return InputError(f"model {name!r}{f' at revision {revision!r}' if revision else ''} {what}.")
