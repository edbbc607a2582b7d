"""What two models that share most tokens can read together."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sae_tools.common.errors import InputError
from sae_tools.common.settings import Dataset
from sae_tools.models.corpus import tokenize
from sae_tools.models.pair import own_tokens
from tests.conftest import TEXT

DATASET = {"context_size": 32, "n_tokens": 320, "held_out_tokens": 64}


def write(path: Path, texts: list[str]) -> Dataset:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Dataset(str(path), **DATASET)


def test_blocks_with_added_tokens_are_left_out_and_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["<chat>"])
    assert len(chat) == len(tokenizer) + 1
    plain = write(tmp_path / "plain.jsonl", [TEXT] * 4)
    expected = tokenize(plain, tokenizer)
    found = own_tokens(plain, chat, "chat", len(tokenizer))
    assert found.train.equal(expected.train)
    assert found.held_out.equal(expected.held_out)
    mixed = write(tmp_path / "mixed.jsonl", [TEXT, TEXT, "<chat> " + TEXT, TEXT, TEXT])
    every = tokenize(mixed, chat)
    with caplog.at_level(logging.WARNING):
        found = own_tokens(mixed, chat, "chat", len(tokenizer))
    held = (every.train == len(tokenizer)).any(dim=1)
    assert held.sum() == 1
    assert found.train.equal(every.train[~held])
    assert "1 of 12 blocks" in caplog.text


def test_a_text_that_only_the_finetune_can_read_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["<chat>"])
    dataset = write(tmp_path / "chat.jsonl", ["<chat> once upon a time <chat> " * 200] * 3)
    with pytest.raises(InputError, match=r"every held-out block of .* holds a token that 'chat' has"):
        own_tokens(dataset, chat, "chat", len(tokenizer))
