"""Small random models, texts and SAEs in the very layout of those that a preset names, as a folder that `hub` serves.

A pinned revision is a folder of its own beside an empty `main`: a preset that forgets it finds nothing.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from tests.pipeline.published import DATASETS, GELU_1L, MODELS, SAES, Model

D_SAE = 96
SIZES: dict[str, int] = {
    "n_embd": 32, "hidden_size": 32, "n_head": 4, "num_attention_heads": 4, "head_dim": 16, "intermediate_size": 48,
    "n_positions": 128, "max_position_embeddings": 128, "sliding_window": 16, "query_pre_attn_scalar": 16,
}  # fmt: skip
"""The largest that a number of a config.json may be; blocks and vocabulary besides."""
BYTE_LEVEL = ("GPT2Tokenizer", "GPTNeoXTokenizer")
FIRST: dict[str, list[str]] = {
    "GPT2Tokenizer": [],
    "GPTNeoXTokenizer": ["<|endoftext|>", "<|padding|>"],
    "GemmaTokenizer": ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<unused99>", "<start_of_turn>", "<end_of_turn>"],
    "LlamaTokenizer": ["<unk>", "<s>", "</s>"],
}
"""The first tokens of each kind of vocabulary; GPT-2's own ends with its only special one."""


def put_model(hub: Path, name: str, revision: str | None, n_layers: int, texts: list[str]) -> None:
    """Write a random model, of `n_layers` blocks, with a tokenizer made from `texts`; a finetune is near its base."""
    published, folder = MODELS[name], _at(hub / name, revision)
    tokenizer = _tokenizer(published, texts)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    base = MODELS[published.finetune_of] if published.finetune_of else published
    model = AutoModelForCausalLM.from_config(_config(base, n_layers, len(_tokenizer(base, texts))))
    _stir(model, 0.1)
    if published.finetune_of:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        _stir(model, 0.01)
    model.to(torch.float32).save_pretrained(folder)


@torch.no_grad()
def _stir(model: torch.nn.Module, by: float) -> None:
    for weight in model.parameters():
        weight += by * torch.randn_like(weight)


def put_gelu_1l(hub: Path, revision: str | None, texts: list[str]) -> None:
    """Write a random model as TransformerLens' own are published: its state as a pickle of tensors."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    tokenizer = _tokenizer(Model({}, "GPTNeoXTokenizer"), texts)
    tokenizer.save_pretrained(_at(hub / GELU_1L["tokenizer_name"], None))
    sizes = {"d_model": 32, "d_mlp": 48, "n_heads": 4, "d_head": 8, "n_ctx": 128, "d_vocab": len(tokenizer)}
    folder = _at(hub / "NeelNanda/GELU_1L512W_C4_Code", revision)
    (folder / "config.json").write_text(json.dumps(GELU_1L | sizes))
    config = HookedTransformerConfig(n_layers=1, act_fn="gelu", normalization_type="LN", seed=0, device="cpu", **sizes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = HookedTransformer(config)
    _stir(model, 0.1)
    torch.save(model.state_dict(), folder / "model_final.pth")


def _config(published: Model, n_layers: int, n_tokens: int) -> Any:
    own = {
        key: min(value, SIZES[key])
        if key in SIZES
        else n_layers
        if key.endswith(("n_layer", "hidden_layers"))
        else value
        for key, value in published.config.items()
        if key != "model_type"
    }
    heads = own.get("num_attention_heads", own.get("n_head"))
    own |= {"num_key_value_heads": min(heads, own["num_key_value_heads"])} if "num_key_value_heads" in own else {}
    own |= {"vocab_size": n_tokens + (27 if published.tokenizer == "GPTNeoXTokenizer" else 0)}  # rows for no token
    own |= {key: n_tokens - 1 for key in ("bos_token_id", "eos_token_id") if published.tokenizer == "GPT2Tokenizer"}
    return AutoConfig.for_model(published.config["model_type"], **own)


def _tokenizer(published: Model, texts: list[str]) -> PreTrainedTokenizerBase:
    """Of the published class: byte-pair encoding over bytes, or over characters with bytes to fall back on."""
    vocabulary = {token: i for i, token in enumerate(published.first or FIRST[published.tokenizer])}
    made = Tokenizer(BPE())
    if published.tokenizer in BYTE_LEVEL:
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        alphabet = []
        vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False))
    learned = json.loads(made.to_str())["model"]
    for token in sorted(learned["vocab"], key=learned["vocab"].get):
        vocabulary.setdefault(token, len(vocabulary))
    if published.tokenizer == "GPT2Tokenizer":
        vocabulary.setdefault("<|endoftext|>", len(vocabulary))
    vocabulary = {published.renamed.get(token, token): i for token, i in vocabulary.items()}
    kind = getattr(transformers, published.tokenizer)
    tokenizer: PreTrainedTokenizerBase = kind(vocab=vocabulary, merges=[tuple(pair) for pair in learned["merges"]])
    if published.added:
        tokenizer.add_special_tokens({"pad_token": published.added[0]})
    return tokenizer


def put_dataset(hub: Path, name: str, revision: str | None, column: str, texts: list[str]) -> None:
    """Write a data set of `texts` in the published file format, with the published README."""
    file, config, pattern = DATASETS[name]
    folder = _at(hub / "datasets" / name, revision)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame({column: texts, "source": "made up"})
    if file.endswith(".parquet"):
        table.to_parquet(folder / file)
    elif file.endswith(".zst"):
        lines = table.to_json(orient="records", lines=True).encode()
        (folder / file).write_bytes(pa.compress(lines, "zstd", asbytes=True))
    else:
        table.to_json(folder / file, orient="records", lines=file.endswith(".jsonl"))
    if config:
        about = f"configs:\n- config_name: {config}\n  data_files:\n  - split: train\n    path: {pattern}\n"
        (folder / "README.md").write_text(f"---\n{about}---\n")


def sae_weights(place: str) -> dict[str, torch.Tensor]:
    """Of the SAE that `put_sae` writes."""
    chance, d_in = torch.Generator().manual_seed(len(place)), SIZES["hidden_size"]
    decoder = torch.nn.functional.normalize(torch.randn(D_SAE, d_in, generator=chance), dim=1)
    biases = {"b_enc": torch.full((D_SAE,), -0.1), "b_dec": torch.zeros(d_in)}
    return {"W_enc": decoder.T.contiguous(), "W_dec": decoder, **biases}


def put_sae(hub: Path, place: str) -> None:
    """Write a random SAE in the published format: SAELens' older ones, or Gemma Scope's."""
    about, folder, weights = SAES[place], hub / place, sae_weights(place)
    folder.mkdir(parents=True)
    if "dtype" not in about:
        arrays = {key: value.numpy() for key, value in weights.items()}
        np.savez(folder / "params.npz", **arrays, threshold=np.full(D_SAE, 0.1, dtype=np.float32))
        return
    (folder / "cfg.json").write_text(json.dumps(about | {"d_in": SIZES["hidden_size"], "d_sae": D_SAE}))
    if "hook_point" in about:
        weights["scaling_factor"] = torch.ones(D_SAE)  # of a finetuning that was not done
    save_file(weights, folder / "sae_weights.safetensors")
    save_file({"sparsity": torch.full((D_SAE,), -2.0)}, folder / "sparsity.safetensors")


def _at(repository: Path, revision: str | None) -> Path:
    """Where files of a revision belong; `main` is there too."""
    repository.mkdir(parents=True, exist_ok=True)
    folder = repository.with_name(f"{repository.name}@{revision}") if revision else repository
    folder.mkdir(exist_ok=True)
    return folder
