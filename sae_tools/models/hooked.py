"""Models that only TransformerLens has, such as gelu-1l, as plain Hugging Face models of GPT-2's layout.

Named `transformer-lens:` and TransformerLens' own name. Its weights are a pickle of tensors, read here and not by
TransformerLens, which would run whatever code a pickle holds.
"""

from __future__ import annotations

from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from sae_tools.common.errors import InputError
from sae_tools.models import remote
from sae_tools.models.sources import OWNERS

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_new", "relu": "relu", "silu": "silu"}


def official_name(name: str) -> str:
    """The Hub id of what TransformerLens calls `name`.

    Raises:
        InputError: TransformerLens is not installed or knows no such model, or one that is Hugging Face's own.
    """
    try:
        from transformer_lens.loading_from_pretrained import get_official_model_name
    except ImportError:
        raise InputError(
            f"model 'transformer-lens:{name}' needs TransformerLens; install it with pip install transformer-lens."
        ) from None
    try:
        found = str(get_official_model_name(name))
    except ValueError:
        raise InputError(f"TransformerLens knows no model {name!r}; give one of its names, such as gelu-1l.") from None
    if not found.startswith(OWNERS):
        raise InputError(f"model 'transformer-lens:{name}' is on the Hub as it is; give {found!r} in its place.")
    return found


def load_config(name: str, revision: str | None) -> GPT2Config:
    """GPT-2's configuration of a model that TransformerLens calls `name`.

    Raises:
        InputError: it cannot be had, or GPT-2's layout cannot express it.
    """
    return as_gpt2_config(_settings(name, revision), f"transformer-lens:{name}")


def load_tokenizer(name: str, revision: str | None) -> Any:
    """Its tokenizer, whose begin token is the end token where it has none, as TransformerLens takes it."""
    repository = str(_settings(name, revision).tokenizer_name)
    tokenizer = AutoTokenizer.from_pretrained(str(remote.find(repository, None, "tokenizer.json")))
    if tokenizer.bos_token is None:
        tokenizer.bos_token = tokenizer.eos_token
    return tokenizer


def load_model(name: str, revision: str | None, dtype: torch.dtype) -> nn.Module:
    """The model that TransformerLens calls `name`, its weights as they were trained."""
    repository = official_name(name)
    config = load_config(name, revision)
    weights = [file for file in remote.files_of(repository, revision) if file.endswith("final.pth")]
    if not weights:
        raise InputError(f"model 'transformer-lens:{name}' has no weights at {repository}; name another model.")
    path = remote.fetch(repository, revision, weights[0])
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # tensors alone: nothing in it is run
    except (UnpicklingError, RuntimeError, EOFError):
        raise InputError(
            f"model 'transformer-lens:{name}' cannot be loaded: {weights[0]} holds more than tensors, or is cut short; "
            "name another model."
        ) from None
    model: nn.Module = as_gpt2(state, config).to(dtype)
    return model


def _settings(name: str, revision: str | None) -> Any:
    repository = official_name(name)
    from transformer_lens.loading_from_pretrained import get_pretrained_model_config

    remote.find(repository, revision)  # what can't be had is refused in a sentence
    more: dict[str, Any] = {} if revision is None else {"revision": revision}
    return get_pretrained_model_config(repository, device="cpu", **more)


def as_gpt2_config(cfg: Any, name: str) -> GPT2Config:
    """A HookedTransformerConfig as GPT-2's.

    Raises:
        InputError: naming the first thing that GPT-2's layout does not have.
    """
    wanted: dict[str, tuple[Any, ...]] = {
        "attn_only": (False,), "gated_mlp": (False,), "parallel_attn_mlp": (False,), "final_rms": (False,),
        "positional_embedding_type": ("standard",), "attention_dir": ("causal",), "use_local_attn": (False,),
        "normalization_type": ("LN", "LNPre"), "act_fn": tuple(ACTIVATIONS), "use_attn_scale": (True,),
        "original_architecture": ("neel", None), "d_vocab_out": (cfg.d_vocab, -1), "num_experts": (None,),
        "n_key_value_heads": (None, cfg.n_heads), "d_head": (cfg.d_model // cfg.n_heads,),
        "scale_attn_by_inverse_layer_idx": (False,),
    }  # fmt: skip
    for key, values in wanted.items():
        if (value := getattr(cfg, key)) not in values:
            raise InputError(
                f"model {name!r} has {key} {value!r}, which GPT-2's layout cannot express: only a model with {key} "
                f"{' or '.join(map(repr, values))} can be loaded."
            )
    return GPT2Config(
        vocab_size=cfg.d_vocab, n_positions=cfg.n_ctx, n_embd=cfg.d_model, n_layer=cfg.n_layers, n_head=cfg.n_heads,
        n_inner=cfg.d_mlp, activation_function=ACTIVATIONS[cfg.act_fn], layer_norm_epsilon=cfg.eps,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip


def as_gpt2(state: dict[str, Tensor], config: GPT2Config) -> GPT2LMHeadModel:
    """A GPT-2 with the weights of a HookedTransformer's state, and a bias of the unembedding."""
    model = GPT2LMHeadModel(config)
    model.lm_head = nn.Linear(config.n_embd, config.vocab_size)  # type: ignore[assignment]
    found = {
        "transformer.wte.weight": state["embed.W_E"],
        "transformer.wpe.weight": state["pos_embed.W_pos"],
        **_norm("transformer.ln_f", state, "ln_final", config.n_embd),
        "lm_head.weight": state["unembed.W_U"].T,
        "lm_head.bias": state.get("unembed.b_U", torch.zeros(config.vocab_size)),
    }
    for layer in range(config.n_layer):
        found |= _block(f"transformer.h.{layer}", state, f"blocks.{layer}", config.n_embd)
    model.load_state_dict(found)
    return model


def _block(to: str, state: dict[str, Tensor], at: str, d_model: int) -> dict[str, Tensor]:
    """GPT-2 keeps (in, out) matrices, the heads side by side, and those of queries, keys and values in one."""
    heads = [state[f"{at}.attn.W_{which}"].permute(1, 0, 2).flatten(1) for which in "QKV"]
    return {
        **_norm(f"{to}.ln_1", state, f"{at}.ln1", d_model),
        **_norm(f"{to}.ln_2", state, f"{at}.ln2", d_model),
        f"{to}.attn.c_attn.weight": torch.cat(heads, dim=1),
        f"{to}.attn.c_attn.bias": torch.cat([state[f"{at}.attn.b_{which}"].flatten() for which in "QKV"]),
        f"{to}.attn.c_proj.weight": state[f"{at}.attn.W_O"].flatten(0, 1),
        f"{to}.attn.c_proj.bias": state[f"{at}.attn.b_O"],
        f"{to}.mlp.c_fc.weight": state[f"{at}.mlp.W_in"],
        f"{to}.mlp.c_fc.bias": state[f"{at}.mlp.b_in"],
        f"{to}.mlp.c_proj.weight": state[f"{at}.mlp.W_out"],
        f"{to}.mlp.c_proj.bias": state[f"{at}.mlp.b_out"],
    }


def _norm(to: str, state: dict[str, Tensor], at: str, d_model: int) -> dict[str, Tensor]:
    """A norm's weights; LNPre has none."""
    return {
        f"{to}.weight": state.get(f"{at}.w", torch.ones(d_model)),
        f"{to}.bias": state.get(f"{at}.b", torch.zeros(d_model)),
    }
