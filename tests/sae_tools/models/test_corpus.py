"""Blocks hold the documents' tokens in order, without padding, and no document is in both parts."""

from __future__ import annotations

import itertools
import json
import re
import tracemalloc
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sae_tools.common.errors import InputError
from sae_tools.common.formats import Spec
from sae_tools.common.settings import Dataset
from sae_tools.common.tensor_file import TensorFile
from sae_tools.models.corpus import Tokens, cut, cut_to, tokenize, tokenize_to
from tests.conftest import ASSETS

BOS, EOS = 0, 1
SIZE = 8


def settings(path: Path | str = "unused", **values: Any) -> Dataset:
    defaults = {"context_size": SIZE, "n_tokens": 0, "held_out_tokens": 0}
    return Dataset(path=str(path), **{**defaults, **values})


def documents(n: int) -> list[str]:
    return [f"story {i}: the fox number {i * 7} sings." + " again" * (i % 5) for i in range(n)]


def stream(blocks: Tensor) -> list[int]:
    """The ids of blocks laid end to end, less the begin tokens."""
    assert (blocks[:, 0] == BOS).all()
    return [int(i) for i in blocks[:, 1:].flatten()]


def unordered(tokens: Tokens, dataset: Dataset) -> Tensor:
    """The train blocks in the order of the text."""
    order = torch.randperm(len(tokens.train), generator=torch.Generator().manual_seed(dataset.seed))
    return tokens.train[torch.argsort(order)]


def test_the_blocks_hold_the_text_in_order_without_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = settings(n_tokens=20 * SIZE, held_out_tokens=10 * SIZE)
    texts = documents(40)
    tokens = cut(texts, dataset, tokenizer)
    assert tokens.train.shape == (20, SIZE)
    assert tokens.held_out.shape == (10, SIZE)
    assert tokens.train.dtype == tokens.held_out.dtype == torch.int32
    held_out = tokenizer.decode(stream(tokens.held_out))
    train = tokenizer.decode(stream(unordered(tokens, dataset)))
    assert "</s>".join(texts).startswith(held_out)
    first = next(text for text in texts if train.startswith(text))  # begins with a whole document
    assert "</s>".join(texts[texts.index(first) :]).startswith(train)
    assert held_out.count("</s>") <= texts.index(first)
    assert not set(held_out.split("</s>")) & set(train.split("</s>"))


def test_every_document_is_closed_by_the_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = ["a fox", "", "sings", "the bear and the owl sing together"]
    ids = stream(cut(texts, settings(n_tokens=2 * SIZE), tokenizer).train[[0]])
    first, _, second, third = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
    expected = [*first, EOS, *second, EOS, *third, EOS]
    whole = cut(texts, settings(n_tokens=2 * SIZE), tokenizer)
    assert stream(unordered(whole, settings()))[:14] == expected[:14]
    assert EOS in ids or len(ids) == SIZE - 1


@pytest.mark.parametrize("n_tokens", [1, SIZE - 1, SIZE, SIZE + 1, 5 * SIZE])
def test_as_many_blocks_as_hold_the_tokens_asked_for(tokenizer: PreTrainedTokenizerFast, n_tokens: int) -> None:
    tokens = cut(documents(30), settings(n_tokens=n_tokens), tokenizer)
    assert len(tokens.train) == -(-n_tokens // SIZE)
    assert len(tokens.held_out) == 0


def test_one_long_document_fills_many_blocks(tokenizer: PreTrainedTokenizerFast) -> None:
    text = " ".join(documents(50))
    dataset = settings(n_tokens=50 * SIZE)
    got = stream(unordered(cut([text], dataset, tokenizer), dataset))
    assert got == tokenizer.encode(text, add_special_tokens=False)[: len(got)]


def test_the_order_of_train_blocks_is_a_function_of_the_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    def train(seed: int) -> Tensor:
        return cut(documents(60), settings(n_tokens=40 * SIZE, seed=seed), tokenizer).train

    assert torch.equal(train(0), train(0))
    assert not torch.equal(train(0), train(1))
    assert sorted(map(tuple, train(0).tolist())) == sorted(map(tuple, train(1).tolist()))


def test_too_little_text_says_how_much_there_is(tokenizer: PreTrainedTokenizerFast) -> None:
    dataset = settings("tale.txt", n_tokens=1000, held_out_tokens=16)
    with pytest.raises(InputError, match=r"'tale.txt' gives \d+ tokens, but 1,016 were asked for; .*lower") as error:
        cut(documents(4), dataset, tokenizer)
    have = int(str(error.value).split(" gives ")[1].split(" tokens")[0])
    assert have % SIZE == 0
    assert 16 < have <= sum(len(tokenizer.encode(text)) + 1 for text in documents(4)) * SIZE // (SIZE - 1)


@pytest.mark.parametrize("texts", [[], [""], ["", "", ""], ["a"]])
def test_no_text_is_refused(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    with pytest.raises(InputError, match="less text than one block of 8 tokens"):
        cut(texts, settings(n_tokens=SIZE), tokenizer)


@pytest.mark.parametrize("document", [None, 3, ["a"], {"a": 1}])
def test_a_document_that_is_no_text_is_refused(tokenizer: PreTrainedTokenizerFast, document: Any) -> None:
    with pytest.raises(InputError, match="text is expected"):
        cut(["fine", document], settings(n_tokens=10 * SIZE), tokenizer)


def test_an_endless_text_is_read_as_far_as_it_is_needed(tokenizer: PreTrainedTokenizerFast) -> None:
    cut(itertools.cycle(documents(30)), settings(n_tokens=4 * SIZE, held_out_tokens=4 * SIZE), tokenizer)


def brute_force(texts: Iterable[str], dataset: Dataset, tokenizer: Any) -> dict[str, Tensor]:
    """The parts, from lists: each text is tokenized alone."""
    begin = [tokenizer.bos_token_id]
    step = dataset.context_size - 1
    documents = iter(texts)
    parts = {}
    for part, n_tokens in (("held_out", dataset.held_out_tokens), ("train", dataset.n_tokens)):
        ids: list[int] = []
        count = -(-n_tokens // dataset.context_size)
        while len(ids) < count * step:
            text = next(documents)
            ids += [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] if text else []
        parts[part] = torch.tensor([begin + ids[i * step : (i + 1) * step] for i in range(count)], dtype=torch.int32)
    order = torch.randperm(len(parts["train"]), generator=torch.Generator().manual_seed(dataset.seed))
    return parts | {"train": parts["train"][order]}


def test_the_default_text_gives_the_ids_of_cutting_lists(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "stories")
    dataset = Dataset(str(ASSETS / "stories.parquet"), n_tokens=100_000, held_out_tokens=20_000)
    tokenize_to(tmp_path, dataset, tokenizer)
    expected = brute_force(pd.read_parquet(dataset.path)["text"], dataset, tokenizer)
    save_file(expected, tmp_path / "expected")
    assert (tmp_path / "tokens.safetensors").read_bytes() == (tmp_path / "expected").read_bytes()
    in_memory = tokenize(dataset, tokenizer)
    assert torch.equal(in_memory.train, expected["train"])
    assert torch.equal(in_memory.held_out, expected["held_out"])


def test_half_written_tokens_are_no_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="were asked for"):
        cut_to(tmp_path, documents(30), settings(n_tokens=1000 * SIZE), tokenizer)
    assert not list(tmp_path.iterdir())


def test_memory_does_not_grow_with_the_tokens(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    def peak(n_tokens: int) -> int:
        dataset = settings(n_tokens=n_tokens, context_size=128, tokens_column="ids")
        tracemalloc.start()
        cut_to(tmp_path, itertools.repeat(list(range(2, 302))), dataset, tokenizer)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(1_000)
    assert peak(400_000) - peak(50_000) < 100_000


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory as Linux does")
def test_loaded_tokens_stay_on_disk(tmp_path: Path) -> None:
    def own_memory() -> int:
        """kB of this process that no file backs."""
        return int(re.findall(r"RssAnon:\s*(\d+)", Path("/proc/self/status").read_text())[0])

    with (tmp_path / "tokens.safetensors").open("wb") as file:
        shape = (2**18, 128)  # 134 MB
        TensorFile(file, {"held_out": Spec("I32", (1, 128)), "train": Spec("I32", shape)})
        file.truncate(file.tell() + 4 * 128 * (2**18 + 1))
    before = own_memory()
    tokens = Tokens.load(tmp_path)
    assert all(not part.any() for part in tokens.train.split(4096))
    assert tokens.train.shape == shape
    assert own_memory() - before < 20_000


def test_saved_tokens_come_back(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokens = cut(documents(30), settings(n_tokens=10 * SIZE, held_out_tokens=4 * SIZE), tokenizer)
    tokens.save(tmp_path)
    again = Tokens.load(tmp_path)
    assert again.train_mask is None
    assert torch.equal(again.train, tokens.train)
    assert torch.equal(again.held_out, tokens.held_out)
    assert len(again.first_train(3 * SIZE + 5)) == 3
    assert len(again.first_held_out(1)) == 1
    assert len(again.first_train(10**9)) == 10


def test_a_plain_file_with_too_few_bytes_is_refused_unread(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "x.txt"
    path.write_text("short")
    with pytest.raises(InputError, match="5 bytes, too few for 100 tokens"):
        tokenize(settings(path, n_tokens=60, held_out_tokens=40), tokenizer)


def test_a_file_to_blocks(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(30)))
    dataset = settings(path, n_tokens=10 * SIZE, held_out_tokens=3 * SIZE)
    from_file, direct = tokenize(dataset, tokenizer), cut(documents(30), dataset, tokenizer)
    assert torch.equal(from_file.train, direct.train)
    assert torch.equal(from_file.held_out, direct.held_out)


def test_documents_are_drawn_from_a_buffer_by_the_seed(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(60)))

    def texts(**values: Any) -> list[list[str]]:
        """The whole documents of each part."""
        dataset = settings(path, n_tokens=30 * SIZE, held_out_tokens=30 * SIZE, **values)
        tokens = tokenize(dataset, tokenizer)
        return [
            tokenizer.decode(stream(part)).split("</s>")[:-1] for part in (tokens.held_out, unordered(tokens, dataset))
        ]

    held_out, train = texts(shuffle_buffer=20)
    assert {*held_out, *train} < set(documents(60))
    assert not set(held_out) & set(train)
    assert held_out != documents(60)[: len(held_out)]
    assert texts(shuffle_buffer=20) == [held_out, train]
    assert texts(shuffle_buffer=20, seed=1)[0] != held_out
    assert texts(seed=1)[0] == documents(60)[: len(texts()[0])]


# --- data sets of token ids ------------------------------------------------------------------------------------------


def write_ids(path: Path, rows: Sequence[Any]) -> Dataset:
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    return settings(path, tokens_column="input_ids", n_tokens=3 * SIZE)


def test_ids_are_laid_end_to_end_as_they_are(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [[5, 6, 7], [], [8], list(range(10, 40))]
    dataset = write_ids(tmp_path / "x.jsonl", rows)
    assert (
        stream(unordered(tokenize(dataset, tokenizer), dataset)) == [i for row in rows for i in row][: 3 * (SIZE - 1)]
    )


def test_blocks_that_begin_with_the_begin_token_stay_as_they_are(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    rows = [[BOS, *range(start, start + SIZE - 1)] for start in (10, 30, 50, 70)]
    dataset = write_ids(tmp_path / "x.jsonl", rows)
    assert unordered(tokenize(dataset, tokenizer), dataset).tolist() == rows[:3]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([5, 357], "token id 357, but the model's tokenizer has 357 tokens"),
        ([5, -1], "token id -1, but"),
        ("text", "'text', but token ids are expected"),
        ([1.5], "token ids are expected"),
        (None, "token ids are expected"),
        ([[1], [2]], "token ids are expected"),
    ],
)
def test_what_is_no_token_id_of_the_model_is_refused(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, row: Any, says: str
) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        tokenize(write_ids(tmp_path / "x.jsonl", [row] * 30), tokenizer)
