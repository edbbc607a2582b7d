"""A data set to fixed blocks of token ids, in a train and a held-out part.

Documents are laid end to end, each closed by the end token, and cut into blocks that each begin with the begin token,
so no block holds padding. The held-out part takes the first documents, the train part the following ones: no document
is in both.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import load_dataset
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.sources import builder, check_dataset


def read_texts(dataset: Dataset) -> Iterator[str]:
    """The documents of a data set, in its own order, never all in memory.

    Raises:
        InputError: no such file or Hub id, or no such text column.
    """
    check_dataset(dataset)
    path = Path(dataset.path)
    column = dataset.text_column
    try:
        if path.is_file():
            # A text file is one document; its lines are not.
            extra = {"sample_by": "document"} if builder(path) == "text" else {}
            rows = load_dataset(str(builder(path)), data_files=str(path), split="train", streaming=True, **extra)
        else:
            rows = load_dataset(
                dataset.path, dataset.config, split=dataset.split, revision=dataset.revision, streaming=True
            )
        for row in rows:
            if column not in row:
                raise InputError(f"dataset {dataset.path!r} has no column {column!r}; it has: {', '.join(row)}.")
            yield row[column]
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise InputError(
            f"dataset {dataset.path!r} cannot be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}."
        ) from None


@dataclass(frozen=True)
class Tokens:
    """Blocks of token ids: `train` and `held_out`, each (n_blocks, context_size) int32."""

    train: Tensor
    held_out: Tensor

    def save(self, folder: Path) -> None:
        save_file({"held_out": self.held_out, "train": self.train}, folder / "tokens.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        with safe_open(folder / "tokens.safetensors", "pt") as file:
            return cls(file.get_tensor("train"), file.get_tensor("held_out"))

    def first_train(self, n_tokens: int) -> Tensor:
        """Blocks of the train part, of `n_tokens` tokens at most but one block at least."""
        return self.train[: max(1, n_tokens // self.train.shape[1])]

    def first_held_out(self, n_tokens: int) -> Tensor:
        """Blocks of the held-out part, of `n_tokens` tokens at most but one block at least."""
        return self.held_out[: max(1, n_tokens // self.held_out.shape[1])]


def tokenize(dataset: Dataset, tokenizer: Any) -> Tokens:
    """Read a data set into blocks; the train blocks are then put in the order that the seed gives.

    Raises:
        InputError: no text, or fewer tokens than asked for.
    """
    return cut(read_texts(dataset), dataset, tokenizer)


def cut(texts: Iterable[str], dataset: Dataset, tokenizer: Any) -> Tokens:
    """As `tokenize`, from documents already at hand."""
    size = dataset.context_size
    need_held_out, need_train = -(-dataset.held_out_tokens // size), -(-dataset.n_tokens // size)
    documents = iter(texts)
    with tqdm(total=(need_held_out + need_train) * size, desc="tokenize", unit="tok", unit_scale=True) as bar:
        held_out = _blocks(documents, tokenizer, size, need_held_out, bar)
        train = _blocks(documents, tokenizer, size, need_train, bar)
    have = (len(held_out) + len(train)) * size
    if have == 0:
        raise InputError(f"dataset {dataset.path!r} holds less text than one block of {size} tokens; give more text.")
    if len(held_out) < need_held_out or len(train) < need_train:
        need = dataset.held_out_tokens + dataset.n_tokens
        raise InputError(
            f"dataset {dataset.path!r} gives {have:,} tokens, but {need:,} were asked for; "
            "lower dataset.n_tokens or dataset.held_out_tokens, or give more text."
        )
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(dataset.seed))
    return Tokens(train[order], held_out)


def first_blocks(texts: Iterable[str], tokenizer: Any, context_size: int, n_tokens: int, what: str) -> Tensor:
    """(n, context_size) ids of the first `n_tokens` tokens of a text called `what`, or of as many as it has.

    Raises:
        InputError: it has less than one block.
    """
    count = max(1, n_tokens // context_size)
    with tqdm(total=count * context_size, desc="tokenize", unit="tok", unit_scale=True) as bar:
        found = _blocks(iter(texts), tokenizer, context_size, count, bar)
    if not len(found):
        raise InputError(f"{what} holds less text than one block of {context_size} tokens; give more text.")
    return found


def _blocks(documents: Iterator[str], tokenizer: Any, size: int, count: int, bar: tqdm[Any]) -> Tensor:
    """(up to `count`, size) int32 blocks from as few documents as they need."""
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    step = size - len(begin)
    blocks: list[list[int]] = []
    rest: list[int] = []
    for text in documents if count else ():
        if not isinstance(text, str):
            raise InputError(f"a document is {text!r}, but text is expected; give the name of a column with text.")
        if text:
            rest += [*tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], *end]
        while len(rest) >= step and len(blocks) < count:
            blocks.append(begin + rest[:step])
            rest = rest[step:]
            bar.update(size)
        if len(blocks) == count:
            break
    return torch.tensor(blocks, dtype=torch.int32).reshape(-1, size)


def trained_positions(dataset: Dataset, is_text: Tensor) -> Tensor:
    """Boolean mask, shaped as `is_text` (n_blocks, context), of the positions that give an activation to train on."""
    n, size = is_text.shape
    if dataset.positions == "all":
        return is_text
    if dataset.positions == "random":
        chosen = torch.randint(size, (n,), generator=torch.Generator().manual_seed(dataset.seed))
    else:
        chosen = torch.full((n,), size // 2 if dataset.positions == "middle" else size - 1)
    return is_text & (torch.arange(size) == chosen[:, None])
