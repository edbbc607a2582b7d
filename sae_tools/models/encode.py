"""Documents to token ids: texts by the tokenizer, many at a time, ids as they are, chats by their template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.chat import Chats

CHARACTERS = 2**18
"""Of the texts that are tokenized in one call: the tokenizer then uses all cores, and its answer stays small."""


def encode(documents: Iterable[Any], dataset: Dataset, tokenizer: Any) -> Iterator[np.ndarray]:
    """(1, n) int32 ids of each document, a text being closed by the end token.

    Of chats with `dataset.roles` (2, n): below each id 1 if its activation is wanted, else 0.

    Raises:
        InputError: a document is not what its column should hold.
    """
    if dataset.tokens_column:
        return (_checked(ids, len(tokenizer), dataset) for ids in documents)
    if dataset.messages_column:
        return map(Chats(tokenizer, dataset).encode, documents)
    return _texts(documents, tokenizer)


def _texts(texts: Iterable[Any], tokenizer: Any) -> Iterator[np.ndarray]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    for batch in _batches(texts):
        found = tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        for ids in found:
            yield np.array([[*ids, *end]], dtype=np.int32)


def _batches(texts: Iterable[Any]) -> Iterator[list[str]]:
    """Texts that are not empty, in lists that reach `CHARACTERS`."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"a document is {_short(text)}, but text is expected; give the name of a column with text."
            )
        if text:
            batch.append(text)
            size += len(text)
        if size >= CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _checked(ids: Any, size: int, dataset: Dataset) -> np.ndarray:
    """A document of ids, as it is: who tokenized it has closed it, or cut it into blocks."""
    try:
        found = np.asarray(ids)
        if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
            raise ValueError
    except ValueError:
        raise InputError(
            f"a document is {_short(ids)}, but token ids are expected; give dataset.tokens_column a column of them."
        ) from None
    if found.size and not 0 <= found.min() <= found.max() < size:
        wrong = next(int(i) for i in found if not 0 <= i < size)
        raise InputError(
            f"dataset {dataset.path!r} holds the token id {wrong:,}, but the model's tokenizer has {size:,} tokens; "
            "give ids of the same tokenizer, or its text."
        )
    return found.astype(np.int32)[None]


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
