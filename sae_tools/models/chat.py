"""Chats by a tokenizer's template: their token ids, and who says which token.

The template is rendered once with the messages and once with marks in their place. What stands between the marks is
the template's own, so that each message's place in the rendered text is known, whatever its words are.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from jinja2 import TemplateError

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset

MARK = "\ue000{}\ue001"
"""Stands for a message: characters for private use, that no text holds."""
CONTROL = "control"
"""The role of what the template adds."""


class Chats:
    """Chats to ids, by the template of a tokenizer."""

    def __init__(self, tokenizer: Any, dataset: Dataset) -> None:
        self.tokenizer, self.dataset = tokenizer, dataset
        if not getattr(tokenizer, "chat_template", None):
            raise InputError(
                f"dataset.messages_column is {dataset.messages_column!r}, but the model's tokenizer has no chat "
                "template; give an instruct model, or a data set of texts."
            )
        if dataset.roles and not tokenizer.is_fast:
            raise InputError(
                f"dataset.roles is {list(dataset.roles)}, but the model's tokenizer does not tell where in the text "
                "its tokens stand; give a model with a tokenizer.json, or leave roles out."
            )

    def encode(self, messages: Any) -> np.ndarray:
        """(1, n) int32 ids of a chat, or (2, n) with what `dataset.roles` wants, as `encode.encode` says.

        Raises:
            InputError: it is no list of messages, or the template refuses or changes them.
        """
        _check(messages)
        text = self._render(messages)
        wanted = bool(self.dataset.roles)
        found = self.tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=wanted, verbose=False
        )
        ids = np.array([found["input_ids"]], dtype=np.int32)
        return np.concatenate([ids, self._wanted(ids, found["offset_mapping"], text, messages)]) if wanted else ids

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            roles = ", ".join(message["role"] for message in messages)
            raise InputError(
                f"the model's chat template refuses a chat of the roles {roles}: {str(error).rstrip('.')}; "
                "leave such chats out."
            ) from None

    def _wanted(self, ids: np.ndarray, offsets: list[tuple[int, int]], text: str, messages: Any) -> np.ndarray:
        """(1, n) 1 where a token is of the roles that are wanted; a special one only as the template's own."""
        roles = self.dataset.roles
        said, mine = np.zeros((2, len(text) + 1), dtype=np.int64)
        for message, (begin, end) in zip(messages, self.spans(messages, text), strict=True):
            said[begin + 1 : end + 1] = 1
            mine[begin + 1 : end + 1] = message["role"] in roles
        begins, ends = np.array(offsets, dtype=np.int64).reshape(-1, 2).T
        of_message, of_role = (np.cumsum(chars)[ends] > np.cumsum(chars)[begins] for chars in (said, mine))
        special = np.isin(ids, self.tokenizer.all_special_ids)
        found = np.where(of_message, of_role & ~special, CONTROL in roles)
        found[ids == self.tokenizer.bos_token_id] = False  # its activations are far larger than any other's
        return found.astype(np.int32)

    def spans(self, messages: list[dict[str, str]], text: str) -> list[tuple[int, int]]:
        """First character and last + 1 of each message in the rendered text; an empty span if it is left out.

        Raises:
            InputError: the template does more than to put each message, trimmed perhaps, into a text of its own.
        """
        marked = [message | {"content": MARK.format(i)} for i, message in enumerate(messages)]
        parts = re.split(MARK.format(r"(\d+)"), self._render(marked))
        own, order = parts[::2], list(map(int, parts[1::2]))
        spans = [(0, 0)] * len(messages)
        at = len(own[0])
        fits = text.startswith(own[0]) and order == sorted(set(order))
        for number, after in zip(order, own[1:], strict=True):
            content = next((c for c in _trimmed(messages[number]["content"]) if text.startswith(c + after, at)), None)
            if content is None:
                fits = False
                break
            spans[number] = at, at + len(content)
            at += len(content) + len(after)
        if not fits or at != len(text):
            raise InputError(
                "the model's chat template changes the messages that it is given, so that it can't be told who says "
                "which token; leave dataset.roles out."
            )
        return spans


def _trimmed(content: str) -> list[str]:
    """As it is, and as a template may trim it."""
    ways: list[Callable[[str], str]] = [str, str.strip, str.rstrip, str.lstrip]
    return [way(content) for way in ways]


def _check(messages: Any) -> None:
    fine = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    )
    if not fine:
        text = repr(messages)
        raise InputError(
            f"a chat is {text[:100]}{'…' * (len(text) > 100)}, but a list of messages with role and content, both "
            "text, is expected; give dataset.messages_column a column of them."
        )
