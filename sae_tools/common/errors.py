"""The one family of errors: each message is a sentence that says what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WorkbenchError(Exception):
    """Base of every error that this project raises on purpose; its text is meant for the user."""


class SettingError(WorkbenchError):
    """A setting has a wrong name, type or value."""


class InputError(WorkbenchError):
    """A model, tokenizer, data set or text cannot be used."""


class ArtifactError(WorkbenchError):
    """A folder that an earlier stage wrote is missing, incomplete or damaged."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the nearest known name, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of: {', '.join(names)}."
