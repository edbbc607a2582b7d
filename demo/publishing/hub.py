"""To the Hugging Face Hub: all that can be refused is refused first, then folders are uploaded.

`upload_folder` sends what the Hub lacks, file by file or chunk by chunk, and commits at the end or in batches: where it
was killed, the same call goes on.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from httpx2 import TransportError
from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from demo.publishing.card import MARK
from sae_tools.common.errors import InputError

SECONDS = 10.0
"""Longest wait for the Hub's first answer."""
KINDS = {"model": "model repository", "space": "Space"}
OF_THE_HUB = {".gitattributes", "README.md"}
"""Files that a repository may have when it is new."""


class Hub:
    """Two repositories of one id: the Space `owner/name` and the models' `owner/name`."""

    def __init__(self, repo_id: str, api: HfApi, existing: Mapping[str, Any]) -> None:
        self.repo_id, self.api = repo_id, api
        self.existing = existing
        """What the Hub says of each kind that is there already."""

    def publish(self, folders: Mapping[str, Path], private: bool) -> list[str]:
        """Make the Hub hold these folders, by kind, and nothing else; gives back their addresses.

        Raises:
            InputError: something else is there, the account may not create it, or the upload broke off.
        """
        for kind, folder in folders.items():
            self._check_ours(kind, folder)
        addresses = [self._create(kind, private) for kind in folders]
        for kind, folder in folders.items():
            self._upload(kind, folder)
        return addresses

    def _check_ours(self, kind: str, folder: Path) -> None:
        """Publishing deletes what is not in the folder: never what somebody else put there."""
        about = self.existing.get(kind)
        if about is None or MARK in (about.tags or []):
            return
        files = {sibling.rfilename for sibling in about.siblings or []}
        mine = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        if others := sorted(files - mine - OF_THE_HUB):
            raise InputError(
                f"The {KINDS[kind]} {self.repo_id!r} was not made by this command: it holds {others[0]!r}; give "
                f"another id, or add the tag {MARK} to its README.md to have all of it replaced."
            )

    def _create(self, kind: str, private: bool) -> str:
        try:
            url = self.api.create_repo(
                self.repo_id, repo_type=kind, private=private or None, exist_ok=True,
                space_sdk="gradio" if kind == "space" else None,
            )  # fmt: skip
            if private:  # one that is there may be public
                self.api.update_repo_settings(self.repo_id, repo_type=kind, private=True)
        except (HfHubHTTPError, TransportError, OSError) as error:
            raise InputError(f"The {KINDS[kind]} {self.repo_id!r} cannot be written: {_reason(error)}.") from None
        return str(url)

    def _upload(self, kind: str, folder: Path) -> None:
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "It seems that you are about to commit a data file")
                self.api.upload_folder(
                    repo_id=self.repo_id, repo_type=kind, folder_path=folder, delete_patterns="*",
                    commit_message="Publish from the SAE workbench",
                )  # fmt: skip
        except (HfHubHTTPError, TransportError, OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"The upload of the {KINDS[kind]} {self.repo_id!r} broke off: {_reason(error)}; run the same command "
                "again: what has arrived is not sent twice."
            ) from None


def checked(repo_id: str) -> Hub:
    """The Hub, if its owner may be written to by who is signed in; uploads nothing.

    Raises:
        InputError: the id is malformed, nobody is signed in, the token is refused or only reads, the owner is somebody
            else, or there is no network.
    """
    owner, _, name = repo_id.partition("/")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"--repo-id is {repo_id!r}, but OWNER/NAME is expected: {str(error).rstrip('.')}.") from None
    if not (owner and name):
        raise InputError(f"--repo-id is {repo_id!r}, but OWNER/NAME is expected, as me/my-saes.")
    if get_token() is None:
        raise InputError("Nobody is signed in to the Hub: run `hf auth login`, or set HF_TOKEN to a token that writes.")
    api = HfApi()
    try:
        existing = {kind: found for kind in KINDS if (found := _about(api, repo_id, kind))}
        _check_owner(owner, api.whoami())
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise InputError(
                "The Hub refuses your token: make one that writes at https://huggingface.co/settings/tokens, then run "
                "`hf auth login`, or set HF_TOKEN to it."
            ) from None
        raise InputError(f"The Hub refuses: {_reason(error)}.") from None
    except (TransportError, OSError) as error:
        raise InputError(
            f"The Hub cannot be reached at {api.endpoint} ({_reason(error)}); connect to the network, and run again."
        ) from None
    return Hub(repo_id, api, existing)


def _about(api: HfApi, repo_id: str, kind: str) -> Any:
    try:
        return api.repo_info(repo_id, repo_type=kind, timeout=SECONDS)
    except RepositoryNotFoundError:
        return None


def _check_owner(owner: str, who: dict[str, Any]) -> None:
    name = str(who.get("name"))
    writable = [name, *(str(org["name"]) for org in who.get("orgs", []) if org.get("roleInOrg") != "read")]
    if owner not in writable:
        raise InputError(
            f"{name} may not write to {owner!r} on the Hub; give an id that begins with one of: {', '.join(writable)}."
        )
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(
            f"The token of {name} only reads: make one that writes at https://huggingface.co/settings/tokens, then run "
            "`hf auth login`, or set HF_TOKEN to it."
        )


def _reason(error: Exception) -> str:
    """What went wrong, on one line: what the Hub says, or the first two lines of the error."""
    cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
    said = getattr(cause, "server_message", None) or str(cause).strip() or type(cause).__name__
    return " ".join(" ".join(said.splitlines()[:2]).split()).rstrip(".:")
