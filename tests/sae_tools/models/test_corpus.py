"""Blocks hold the documents' tokens in order, without padding, and no document is in both parts."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import Tokens, cut, read_texts, tokenize, trained_positions

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


def test_only_as_much_is_read_as_is_needed(tokenizer: PreTrainedTokenizerFast) -> None:
    def endless() -> Any:
        yield from documents(30)
        raise AssertionError("read too far")

    cut(endless(), settings(n_tokens=4 * SIZE, held_out_tokens=4 * SIZE), tokenizer)


def test_saved_tokens_come_back(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokens = cut(documents(30), settings(n_tokens=10 * SIZE, held_out_tokens=4 * SIZE), tokenizer)
    tokens.save(tmp_path)
    again = Tokens.load(tmp_path)
    assert torch.equal(again.train, tokens.train)
    assert torch.equal(again.held_out, tokens.held_out)
    assert len(again.first_train(3 * SIZE + 5)) == 3
    assert len(again.first_held_out(1)) == 1
    assert len(again.first_train(10**9)) == 10


# --- files -----------------------------------------------------------------------------------------------------------

TEXTS = ["one fox", "two\nlines, a comma and “quotes”", "שלום 👨‍👩‍👧", "last"]


def json_lines(column: str = "text") -> str:
    return "".join(json.dumps({column: text, "other": 1}) + "\n" for text in TEXTS)


def write_parquet(path: Path) -> None:
    pd.DataFrame({"other": 1, "text": TEXTS}).to_parquet(path)


WRITERS: dict[str, Callable[[Path], object]] = {
    "x.jsonl": lambda path: path.write_text(json_lines()),
    "x.json": lambda path: path.write_text(json_lines()),
    "x.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json_lines().encode())),
    "x.csv": lambda path: pd.DataFrame({"other": 1, "text": TEXTS}).to_csv(path, index=False),
    "x.csv.gz": lambda path: pd.DataFrame({"other": 1, "text": TEXTS}).to_csv(path, index=False),
    "x.parquet": write_parquet,
}


@pytest.mark.parametrize("name", WRITERS)
def test_documents_of_a_file(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    assert list(read_texts(settings(tmp_path / name))) == TEXTS


@pytest.mark.parametrize("compress", [False, True])
def test_a_text_file_is_one_document(tmp_path: Path, compress: bool) -> None:
    data = b"line one\n\nline two\n"
    path = tmp_path / ("x.txt.gz" if compress else "x.txt")
    path.write_bytes(gzip.compress(data) if compress else data)
    assert [text.strip() for text in read_texts(settings(path))] == ["line one\n\nline two"]


def test_another_column_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json_lines("body"))
    assert list(read_texts(settings(path, text_column="body"))) == TEXTS


@pytest.mark.parametrize("name", WRITERS)
def test_a_wrong_column_is_named_with_those_there_are(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(InputError, match=r"no column 'body'; it has: .*text"):
        list(read_texts(settings(tmp_path / name, text_column="body")))


def cut_short(path: Path) -> None:
    # Random letters, so that the second half is missed.
    data = "".join(json.dumps({"text": str(torch.rand(20).tolist())}) + "\n" for _ in range(300))
    path.write_bytes(gzip.compress(data.encode())[:-5000])


UNUSABLE: dict[str, Callable[[Path], object]] = {
    "empty.jsonl": Path.touch,
    "empty.txt": Path.touch,
    "empty.parquet": Path.touch,
    "half.jsonl": lambda path: path.write_text('{"text": "a"}\n{"text": "b'),
    "no_json.jsonl": lambda path: path.write_text("this is no json\n"),
    "binary.parquet": lambda path: path.write_bytes(bytes(range(256)) * 4),
    "no_gzip.jsonl.gz": lambda path: path.write_text(json_lines()),
    "cut.jsonl.gz": cut_short,
    "latin.txt": lambda path: path.write_bytes(b"caf\xe9 " * 10),
    "kind.docx": lambda path: path.write_text("a"),
    "kind.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(json_lines().encode())),
    "a_folder.jsonl": Path.mkdir,
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_unusable_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    UNUSABLE[name](path)
    with pytest.raises(InputError) as error:
        list(read_texts(settings(path)))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "absent.jsonl.gz", "absent/deep.parquet"])
def test_an_absent_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"does not exist; .* Hub id"):
        list(read_texts(settings(tmp_path / name)))


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


# --- positions -------------------------------------------------------------------------------------------------------


def test_trained_positions() -> None:
    is_text = torch.ones(50, 7, dtype=torch.bool)
    is_text[:, 0] = False
    is_text[3, 6] = is_text[4, 3] = False
    assert torch.equal(trained_positions(settings(positions="all"), is_text), is_text)
    middle = trained_positions(settings(positions="middle"), is_text)
    assert middle.nonzero().tolist() == [[i, 3] for i in range(50) if i != 4]
    last = trained_positions(settings(positions="last"), is_text)
    assert last.nonzero().tolist() == [[i, 6] for i in range(50) if i != 3]


def test_random_positions_are_one_a_block_drawn_by_the_seed() -> None:
    is_text = torch.ones(3000, 6, dtype=torch.bool)
    chosen = trained_positions(settings(positions="random", seed=1), is_text)
    assert (chosen.sum(dim=1) == 1).all()
    assert ((chosen.sum(dim=0) - 500).abs() < 5 * 500**0.5).all()  # evenly: 5 standard deviations
    assert torch.equal(chosen, trained_positions(settings(positions="random", seed=1), is_text))
    assert not torch.equal(chosen, trained_positions(settings(positions="random", seed=2), is_text))
