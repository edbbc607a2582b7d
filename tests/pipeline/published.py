"""What the presets name, as it is published, in the keys that matter: models, tokenizers, data sets, pretrained SAEs.

`tests.pipeline.substitutes` makes small ones of the same kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

GPT2: dict[str, Any] = {
    "model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257,
    "activation_function": "gelu_new", "bos_token_id": 50256, "eos_token_id": 50256,
}  # fmt: skip
PYTHIA: dict[str, Any] = {
    "model_type": "gpt_neox", "hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8,
    "intermediate_size": 2048, "max_position_embeddings": 2048, "vocab_size": 50304, "rotary_pct": 0.25,
    "use_parallel_residual": True, "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
GEMMA: dict[str, Any] = {
    "model_type": "gemma", "hidden_size": 2048, "num_hidden_layers": 18, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 256, "intermediate_size": 16384, "max_position_embeddings": 8192,
    "vocab_size": 256000, "hidden_act": "gelu", "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
}  # fmt: skip
GEMMA2: dict[str, Any] = {
    "model_type": "gemma2", "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "intermediate_size": 9216, "max_position_embeddings": 8192,
    "vocab_size": 256000, "sliding_window": 4096, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh", "pad_token_id": 0, "eos_token_id": 1,
    "bos_token_id": 2,
}  # fmt: skip
LLAMA2: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "intermediate_size": 11008, "max_position_embeddings": 4096, "vocab_size": 32000,
    "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
MISTRAL: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "max_position_embeddings": 32768, "sliding_window": 4096,
    "vocab_size": 32000, "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    config: dict[str, Any]
    tokenizer: str
    """Its class."""
    finetune_of: str = ""
    renamed: dict[str, str] = field(default_factory=dict)
    """Tokens of the base model's vocabulary that the finetune calls otherwise."""
    added: tuple[str, ...] = ()
    """Tokens that it has besides."""
    first: tuple[str, ...] = ()
    """What its vocabulary begins with, where that is not as usual for its class."""


MODELS = {
    "openai-community/gpt2": Model(GPT2, "GPT2Tokenizer"),
    # A vocabulary of its own, from another language: hardly a token stands where it does in GPT-2's.
    "pierreguillou/gpt2-small-portuguese": Model(
        GPT2, "GPT2Tokenizer", "openai-community/gpt2", first=("<|endoftext|>",)
    ),
    "EleutherAI/pythia-70m-deduped": Model(PYTHIA, "GPTNeoXTokenizer"),
    "google/gemma-2b": Model(GEMMA, "GemmaTokenizer"),
    "shahdishank/gemma-2b-it-finetune-python-codes": Model(
        GEMMA, "GemmaTokenizer", "google/gemma-2b", renamed={"<unused99>": "<start_of_image>"}
    ),
    "google/gemma-2-2b": Model(GEMMA2, "GemmaTokenizer"),
    "google/gemma-2-2b-it": Model(GEMMA2, "GemmaTokenizer", "google/gemma-2-2b"),
    "meta-llama/Llama-2-7b-chat-hf": Model(LLAMA2, "LlamaTokenizer"),
    "mistralai/Mistral-7B-v0.1": Model(MISTRAL, "LlamaTokenizer"),
    "meta-math/MetaMath-Mistral-7B": Model(
        MISTRAL | {"vocab_size": 32001}, "LlamaTokenizer", "mistralai/Mistral-7B-v0.1", added=("[PAD]",)
    ),
}

DATASETS = {
    "Skylion007/openwebtext": ("plain_text/train-00000-of-00080.parquet", "plain_text", "plain_text/train-*"),
    "NeelNanda/pile-10k": ("data/train-00000-of-00001-4746b8785c874cc7.parquet", "", ""),
    "JeanKaddour/minipile": ("data/train-00000-of-00012-6fbcb5959cff4b38.parquet", "", ""),
    "monology/pile-uncopyrighted": ("train/00.jsonl.zst", "", ""),
    "HuggingFaceFW/fineweb": ("sample/10BT/000_00000.parquet", "sample-10BT", "sample/10BT/*"),
    "wikimedia/wikipedia": ("20231101.pt/train-00000-of-00004.parquet", "20231101.pt", "20231101.pt/train-*"),
    "flytech/python-codes-25k": ("python-codes-25k.jsonl", "", ""),
    "meta-math/MetaMathQA": ("MetaMathQA-395K.json", "", ""),
}
"""A file of each, and what its README says: the configuration, and which files that is."""

_OLD = {
    "prepend_bos": True, "dtype": "torch.float32", "device": "cuda", "seed": 42, "l1_coefficient": 8e-05, "lr": 0.0004,
    "expansion_factor": 8, "train_batch_size": 4096, "normalize_activations": "none",
}  # fmt: skip
GELU_1L: dict[str, Any] = {
    "n_layers": 1, "d_model": 512, "d_mlp": 2048, "n_heads": 8, "d_head": 64, "n_ctx": 1024, "d_vocab": 48262,
    "act_fn": "gelu", "attn_only": False, "normalization": "LN", "shortformer_pos": False,
    "tokenizer_name": "NeelNanda/gpt-neox-tokenizer-digits",
}  # fmt: skip
"""The config.json of NeelNanda/GELU_1L512W_C4_Code, which TransformerLens calls gelu-1l."""

SAES: dict[str, dict[str, Any]] = {
    "jbloom/GPT2-Small-SAEs-Reformatted/blocks.6.hook_resid_pre": _OLD | {
        "model_name": "gpt2-small", "hook_point": "blocks.6.hook_resid_pre", "hook_point_layer": 6,
        "hook_point_head_index": None, "dataset_path": "Skylion007/openwebtext", "is_dataset_tokenized": False,
        "context_size": 128, "d_in": 768, "d_sae": 24576, "b_dec_init_method": "geometric_median",
    },
    "jbloom/Gemma-2b-Residual-Stream-SAEs/gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr": _OLD | {
        "model_name": "gemma-2b", "hook_point": "blocks.6.hook_resid_post", "hook_point_layer": 6,
        "hook_point_head_index": None, "dataset_path": "HuggingFaceFW/fineweb", "is_dataset_tokenized": False,
        "context_size": 1024, "d_in": 2048, "d_sae": 16384, "normalize_activations": False,
    },
    "JoshEngels/Mistral-7B-Residual-Stream-SAEs/mistral_7b_layer_8": _OLD | {
        "architecture": "standard", "activation_fn_str": "relu", "apply_b_dec_to_input": True,
        "model_name": "mistral-7b", "hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "hook_head_index": None,
        "dataset_path": "monology/pile-uncopyrighted", "context_size": 256, "d_in": 4096, "d_sae": 65536,
        "sae_lens_training_version": "3.11.0", "finetuning_scaling_factor": False,
    },
    "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82": {"d_in": 2304, "d_sae": 16384},
}  # fmt: skip
"""The cfg.json of each pretrained SAE, by repository and folder; Gemma Scope has none, and weights in params.npz."""
