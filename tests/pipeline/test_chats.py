"""A data set of chats from end to end: what is harvested is what the roles that are wanted say."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from pipeline import harvest, pair, paths
from pipeline.params import load
from sae_tools.activations.shards import Shards
from sae_tools.common.artifacts import verify
from sae_tools.models.corpus import Tokens
from sae_tools.models.lm import LanguageModel
from sae_tools.verify import check
from tests.conftest import TinyLM
from tests.sae_tools.models.test_chat import CHAT, LLAMA

SITE = "blocks.1.hook_resid_post"


def chatty(lm: LanguageModel, folder: Path) -> Path:
    """The model's folder with a chat template."""
    shutil.copytree(lm.name, folder)
    (folder / "chat_template.jinja").write_text(LLAMA)
    return folder


def test_only_tokens_of_the_roles_are_harvested(tiny_lm: TinyLM, tmp_path: Path) -> None:
    base, finetuned = (chatty(tiny_lm("gpt2", seed), tmp_path / f"model-{seed}") for seed in (0, 1))
    text = tmp_path / "chats.jsonl"
    text.write_text((json.dumps({"messages": CHAT}) + "\n") * 40)
    chats: dict[str, Any] = {
        "path": str(text), "messages_column": "messages", "context_size": 32, "n_tokens": 640, "held_out_tokens": 64,
    }  # fmt: skip
    values = {
        "language_model": {"base": str(base), "finetuned": str(finetuned), "device": "cpu"},
        "dataset": chats | {"roles": ["assistant"]},
        "site": SITE,
        "harvest": {"shard_rows": 128, "batch_size": 2, "dtype": "float32"},
        "saes": {"a": {"architecture": "topk", "d_sae": 64, "k": 4, "training_tokens": 64}},
        "evaluate": {},
        "transfer": {"dataset": chats | {"roles": ["user", "control"]}, "pair_tokens": 640, "adapt": {"n_tokens": 64}},
        "features": {},
    }
    (tmp_path / "params.yaml").write_text(json.dumps(values))
    with contextlib.chdir(tmp_path):
        params = load()
        harvest.main(params)
        pair.main(params)
        assert check(paths.TOKENS) == "tokens"
        tokens = Tokens.load(paths.TOKENS)
        n_rows = verify(paths.ACTIVATIONS)[SITE]["n_rows"]
        rows = torch.cat([load_file(file)["acts"] for file in sorted((paths.ACTIVATIONS / SITE).glob("*.safetensors"))])
        both = Tokens.load(paths.PAIR / "tokens").train
        pair_rows = [Shards(paths.PAIR / which / SITE).n_rows for which in ("base", "finetuned")]
    assert tokens.train_mask is not None
    lm = LanguageModel.load(str(base), device="cpu")
    said = lm.tokenizer.decode(tokens.train[tokens.train_mask])
    assert "Because" in said
    assert "Why" not in said
    assert n_rows == len(rows) == int(tokens.train_mask.sum())
    site = lm.site(SITE)
    expected = lm.activations(tokens.train.long(), [site])[SITE][tokens.train_mask]
    torch.testing.assert_close(rows.sum(dim=0), expected.sum(dim=0), rtol=1e-4, atol=1e-3)
    # Of the pair every second block is of the text whose other roles are wanted: together all but begin tokens.
    assert torch.equal(both[::2], both[1::2])
    assert pair_rows == 2 * [int((both[::2] != lm.tokenizer.bos_token_id).sum())]
