"""A data set to fixed blocks of token ids, in a train and a held-out part.

Documents are laid end to end and cut into blocks that each begin with the begin token, so no block holds padding. The
held-out part takes the first documents, the train part the following ones: no document is in both. Blocks go to disk as
they come, and are read from there as they are used: memory does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from sae_tools.common.artifacts import new_file
from sae_tools.common.errors import InputError
from sae_tools.common.formats import Spec
from sae_tools.common.settings import Dataset
from sae_tools.common.tensor_file import TensorFile
from sae_tools.models.blocks import Cutter, cut_blocks
from sae_tools.models.encode import encode
from sae_tools.models.reading import read_documents

FILE = "tokens.safetensors"


@dataclass(frozen=True)
class Tokens:
    """Blocks of token ids: `train` and `held_out`, each (n_blocks, context_size) int32."""

    train: Tensor
    held_out: Tensor
    train_mask: Tensor | None = None
    """Boolean, shaped as `train`: tokens of the roles that are trained on, where a data set of chats has such."""

    def save(self, folder: Path) -> None:
        mask = {} if self.train_mask is None else {"train_mask": self.train_mask}
        save_file({"held_out": self.held_out, "train": self.train} | mask, folder / FILE)

    @classmethod
    def load(cls, folder: Path) -> Tokens:
        """Map the file into memory: blocks are read as they are used."""
        with safe_open(folder / FILE, "pt") as file:
            return cls(**{name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 - no mapping

    def first_train(self, n_tokens: int) -> Tensor:
        """Blocks of the train part, of `n_tokens` tokens at most but one block at least."""
        return self.train[: max(1, n_tokens // self.train.shape[1])]

    def first_held_out(self, n_tokens: int) -> Tensor:
        """Blocks of the held-out part, of `n_tokens` tokens at most but one block at least."""
        return self.held_out[: max(1, n_tokens // self.held_out.shape[1])]


def n_bytes(dataset: Dataset) -> int:
    """Bytes that `tokenize_to` writes."""
    return 4 * (dataset.n_tokens + dataset.held_out_tokens) + bool(dataset.roles) * dataset.n_tokens


def tokenize_to(folder: Path, dataset: Dataset, tokenizer: Any) -> None:
    """Read a data set into blocks on disk, the train blocks in the order that the seed gives.

    Raises:
        InputError: no text, or fewer tokens than asked for.
        ArtifactError: the disk is full.
    """
    cut_to(folder, read_documents(dataset), dataset, tokenizer)


def cut_to(folder: Path, documents: Iterable[Any], dataset: Dataset, tokenizer: Any) -> None:
    """As `tokenize_to`, from documents already at hand."""
    n_held_out, n_train = _counts(dataset)
    train = Spec("I32", (n_train, dataset.context_size))
    specs = {"train": train, "held_out": Spec("I32", (n_held_out, dataset.context_size))}
    if dataset.roles:
        specs["train_mask"] = Spec("BOOL", train.shape)
    places = _order(n_train, dataset.seed).argsort()
    with new_file(folder / FILE) as temporary, temporary.open("wb") as raw:
        file = TensorFile(raw, specs)
        for part, number, block in _cut(documents, dataset, tokenizer):
            place = int(places[number]) if part == "train" else number
            file.put(part, place, block[0])
            if part == "train" and dataset.roles:
                file.put("train_mask", place, block[1].astype(bool))


def tokenize(dataset: Dataset, tokenizer: Any) -> Tokens:
    """As `tokenize_to`, in memory."""
    return cut(read_documents(dataset), dataset, tokenizer)


def cut(documents: Iterable[Any], dataset: Dataset, tokenizer: Any) -> Tokens:
    """As `cut_to`, in memory."""
    found: dict[str, list[np.ndarray]] = {"held_out": [], "train": []}
    for part, _, block in _cut(documents, dataset, tokenizer):
        found[part].append(block)
    shape = (-1, 1 + bool(dataset.roles), dataset.context_size)
    held_out, train = (torch.from_numpy(np.array(blocks, dtype=np.int32).reshape(shape)) for blocks in found.values())
    train = train[_order(len(train), dataset.seed)]
    return Tokens(train[:, 0].clone(), held_out[:, 0].clone(), train[:, 1].bool() if dataset.roles else None)


def first_blocks(texts: Iterable[str], tokenizer: Any, context_size: int, n_tokens: int, what: str) -> Tensor:
    """(n, context_size) ids of the first `n_tokens` tokens of a text called `what`, or of as many as it has.

    Raises:
        InputError: it has less than one block.
    """
    count = max(1, n_tokens // context_size)
    documents = encode(texts, Dataset(what), tokenizer)
    with _bar(count * context_size) as bar:
        found = list(cut_blocks(documents, Cutter(context_size, tokenizer.bos_token_id), count, bar))
    if not found:
        raise InputError(f"{what} holds less text than one block of {context_size} tokens; give more text.")
    return torch.from_numpy(np.concatenate(found))


def _cut(documents: Iterable[Any], dataset: Dataset, tokenizer: Any) -> Iterator[tuple[str, int, np.ndarray]]:
    """Each block in the order of the text: its part, its number in it, and its (1 or 2, context_size) ids and mask."""
    size, counts = dataset.context_size, _counts(dataset)
    encoded = encode(documents, dataset, tokenizer)
    keeps_begin = bool(dataset.tokens_column or dataset.messages_column)
    have = 0
    with _bar(sum(counts) * size) as bar:
        for part, count in zip(("held_out", "train"), counts, strict=True):
            cutter = Cutter(size, tokenizer.bos_token_id, keeps_begin)
            for number, block in enumerate(cut_blocks(encoded, cutter, count, bar)):
                yield part, number, block
                have += 1
    if have == 0:
        raise InputError(f"dataset {dataset.path!r} holds less text than one block of {size} tokens; give more text.")
    if have < sum(counts):
        need = dataset.held_out_tokens + dataset.n_tokens
        raise InputError(
            f"dataset {dataset.path!r} gives {have * size:,} tokens, but {need:,} were asked for; "
            "lower dataset.n_tokens or dataset.held_out_tokens, or give more text."
        )


def _counts(dataset: Dataset) -> tuple[int, int]:
    """Blocks of the held-out part and of the train part."""
    size = dataset.context_size
    return -(-dataset.held_out_tokens // size), -(-dataset.n_tokens // size)


def _order(n: int, seed: int) -> Tensor:
    """The train block, by its number in the text, that stands at each place."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _bar(n_tokens: int) -> Any:
    return tqdm(total=n_tokens, desc="tokenize", unit="tok", unit_scale=True)
