"""Who says which token of a chat, under templates of several kinds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sae_tools.common.errors import InputError, SettingError
from sae_tools.common.settings import Dataset
from sae_tools.models.chat import Chats
from sae_tools.models.corpus import Tokens, cut, tokenize_to

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a fox.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
LLAMA = (
    "{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>\n' + messages[0].content + '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first else '') }}"
    "{{ m.content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
)
TEMPLATES = {"chatml": CHATML, "llama": LLAMA, "gemma": GEMMA}
MARKS = ["<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>"]
CHAT = [
    {"role": "user", "content": "user"},  # as the template itself says
    {"role": "assistant", "content": "The fox sang: “end_of_turn”, [/INST] and <|im_end|>. "},
    {"role": "user", "content": "\nWhy?\n\n שלום 👨‍👩‍👧"},
    {"role": "assistant", "content": "Because the sun is warm."},
]
SYSTEM = [{"role": "system", "content": "Sing."}]


def chatty(tokenizer: PreTrainedTokenizerFast, template: str) -> PreTrainedTokenizerFast:
    found = copy.deepcopy(tokenizer)
    found.add_special_tokens({"additional_special_tokens": MARKS})
    found.chat_template = TEMPLATES.get(template, template)
    return found


def settings(*roles: Any, **values: Any) -> Dataset:
    return Dataset("x", messages_column="messages", roles=roles, **values)


def said(tokenizer: PreTrainedTokenizerFast, messages: Any, *roles: Any) -> str:
    """The text of the tokens that are wanted."""
    ids, wanted = Chats(tokenizer, settings(*roles)).encode(messages)
    return str(tokenizer.decode(ids[wanted == 1]))


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_ids_are_those_of_the_template(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    chat = chatty(tokenizer, template)
    expected = chat.apply_chat_template(CHAT, return_dict=False)
    assert Chats(chat, settings()).encode(CHAT).tolist() == [expected]
    assert Chats(chat, settings("user")).encode(CHAT)[0].tolist() == expected


@pytest.mark.parametrize("template", TEMPLATES)
def test_each_role_has_its_words_and_no_others(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    chat = chatty(tokenizer, template)
    trimmed = (lambda text: text) if template == "chatml" else str.strip
    words = {
        role: "".join(trimmed(m["content"]) for m in CHAT if m["role"] == role).replace("<|im_end|>", "")
        for role in ("user", "assistant")
    }
    for role, expected in words.items():
        # A token may take the space before a message with it.
        assert said(chat, CHAT, role).replace(" ", "") == expected.replace(" ", "")
    ids, control = Chats(chat, settings("control")).encode(CHAT)
    _, either = Chats(chat, settings("user", "assistant")).encode(CHAT)
    rest = [i for i, c, e in zip(ids, control, either, strict=True) if not c and not e]
    assert set(rest) == {tokenizer.bos_token_id, chat.convert_tokens_to_ids("<|im_end|>")} - (
        {tokenizer.bos_token_id} if template == "chatml" else set()
    )
    assert not (control & either).any()


def test_control_is_what_the_template_adds(tokenizer: PreTrainedTokenizerFast) -> None:
    assert said(chatty(tokenizer, "gemma"), CHAT[2:], "control") == (
        "<start_of_turn>user\n<end_of_turn>\n<start_of_turn>model\n<end_of_turn>\n"
    )
    assert "You are a fox." in said(chatty(tokenizer, "chatml"), CHAT, "control")


@pytest.mark.parametrize("template", ["chatml", "llama"])
def test_a_system_message_is_known_wherever_it_is_put(tokenizer: PreTrainedTokenizerFast, template: str) -> None:
    assert said(chatty(tokenizer, template), SYSTEM + CHAT, "system") == "Sing."


def test_the_mask_of_a_template_that_tells_it_itself_is_the_same(tokenizer: PreTrainedTokenizerFast) -> None:
    telling = CHATML.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}",
    )  # fmt: skip
    chat = chatty(tokenizer, telling)
    plain = [CHAT[0], CHAT[3], CHAT[2], CHAT[3]]
    expected = chat.apply_chat_template(plain, return_dict=True, return_assistant_tokens_mask=True)
    ids, wanted = Chats(chat, settings("assistant")).encode(plain)
    assert ids.tolist() == expected["input_ids"]
    assert wanted.tolist() == expected["assistant_masks"]


CHANGING = {
    "upper": "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
    "thoughts": "{% for m in messages %}[{{ m.content.split('sang')[-1] }}]{% endfor %}",
    "twice": "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
    "backwards": "{% for m in messages | reverse %}[{{ m.content }}]{% endfor %}",
}


@pytest.mark.parametrize("template", CHANGING)
def test_a_template_that_changes_messages_is_refused_where_roles_are_asked_for(
    tokenizer: PreTrainedTokenizerFast, template: str
) -> None:
    chat = chatty(tokenizer, CHANGING[template])
    assert Chats(chat, settings()).encode(CHAT).size
    with pytest.raises(InputError, match=r"chat template changes the messages .*; leave dataset\.roles out"):
        Chats(chat, settings("user")).encode(CHAT)


@pytest.mark.parametrize(
    ("template", "messages", "says"),
    [
        ("gemma", SYSTEM + CHAT, "refuses a chat of the roles system, user, .*: System role not supported; leave"),
        ("llama", CHAT[1:], "refuses a chat of the roles assistant, .*must alternate"),
        ("chatml", "hello", "a chat is 'hello', but a list of messages"),
        ("chatml", [{"from": "human", "value": "hello"}], "a list of messages with role and content"),
        ("chatml", [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "both text, is expected"),
    ],
)
def test_what_is_no_chat_for_the_template_is_refused(
    tokenizer: PreTrainedTokenizerFast, template: str, messages: Any, says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Chats(chatty(tokenizer, template), settings()).encode(messages)


def test_a_tokenizer_without_a_template_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match=r"dataset\.messages_column is 'messages', but .* no chat template"):
        cut([CHAT], settings(), tokenizer)


def test_settings_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(SettingError, match=r"dataset\.roles is \['user'\], but only chats have roles"):
        Dataset("x", roles=("user",))
    with pytest.raises(SettingError, match=r"'a' and dataset\.messages_column is 'b', but one column is read"):
        Dataset("x", tokens_column="a", messages_column="b")


def test_the_mask_is_cut_and_shuffled_with_the_ids(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    chat = chatty(tokenizer, "gemma")
    path = tmp_path / "x.jsonl"
    path.write_text((json.dumps({"messages": CHAT}) + "\n") * 40)
    dataset = Dataset(
        str(path), messages_column="messages", roles=("assistant",), context_size=16, n_tokens=640, held_out_tokens=64
    )
    tokenize_to(tmp_path, dataset, chat)
    tokens, in_memory = Tokens.load(tmp_path), cut([CHAT] * 40, dataset, chat)
    assert tokens.train_mask is not None
    assert in_memory.train_mask is not None
    assert torch.equal(tokens.train, in_memory.train)
    assert torch.equal(tokens.train_mask, in_memory.train_mask)
    assert tokens.train_mask.dtype == torch.bool
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).argsort()
    ids, wanted = Chats(chat, dataset).encode(CHAT)
    left = iter(list(zip(ids.tolist(), wanted.tolist(), strict=True)) * 40)
    for block, mask in zip(tokens.train[order].tolist(), tokens.train_mask[order].tolist(), strict=True):
        assert block[0] == tokenizer.bos_token_id
        assert not mask[0]
        for token, inside in zip(block[1:], mask[1:], strict=True):
            expected = next(left)
            if (token, inside) != expected:  # a chat's own begin token, that served as the block's
                assert expected == (tokenizer.bos_token_id, 0)
                expected = next(left)
            assert (token, inside) == expected
