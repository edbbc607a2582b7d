"""Hook names (TransformerLens') to Hugging Face modules: where in the model an SAE reads and writes.

    blocks.5.hook_resid_post   what block 5 hands on          blocks.5.hook_attn_out   what its attention adds
    blocks.5.hook_resid_pre    what block 5 is given          blocks.5.hook_mlp_out    what its MLP adds
    blocks.5.attn.hook_z       the heads' outputs, unmixed    blocks.5.mlp.hook_post   the MLP's hidden activations

`hook_resid_mid` is left out: no module hands on the stream between attention and MLP, so a patch there would reach the
MLP alone. A new model family is one row of `FAMILIES`. Touches no weights and imports nothing slow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from sae_tools.common.errors import InputError, SettingError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture; those of a block's parts are relative to the block."""

    blocks: str
    final_norm: str
    attn: str
    """Module whose output is added to the residual stream after attention."""
    attn_mix: str
    """Linear map that reads the concatenated heads."""
    mlp: str
    """Module whose output the MLP adds."""
    mlp_down: str
    """Linear map that reads the MLP's hidden activations."""


_GPT2 = Family("transformer.h", "transformer.ln_f", "attn", "attn.c_proj", "mlp", "mlp.c_proj")
_GPT_NEO = Family("transformer.h", "transformer.ln_f", "attn.attention", "attn.attention.out_proj", "mlp", "mlp.c_proj")
_GPT_NEOX = Family(
    "gpt_neox.layers", "gpt_neox.final_layer_norm", "attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"
)
_LLAMA = Family("model.layers", "model.norm", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj")
# Gemma 2 and 3 norm each sublayer's output before adding it.
_GEMMA2 = Family(
    "model.layers", "model.norm", "post_attention_layernorm", "self_attn.o_proj", "post_feedforward_layernorm",
    "mlp.down_proj",
)  # fmt: skip

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neo": _GPT_NEO,
    "gpt_neox": _GPT_NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
}

KINDS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "mlp.hook_post", "attn.hook_z")


@dataclass(frozen=True)
class Site:
    """A point in a model: the input or the output of one module."""

    name: str
    layer: int
    kind: str
    path: str
    """Dotted path of the module."""
    side: Literal["input", "output"]

    @property
    def is_stream(self) -> bool:
        """Whether the site is the whole residual stream: what follows then depends on nothing else."""
        return self.kind in ("hook_resid_pre", "hook_resid_post")

    @property
    def reads_linear(self) -> bool:
        """Whether the site is the input of a linear map that writes to the residual stream."""
        return self.kind in ("mlp.hook_post", "attn.hook_z")


def locate(name: str, model_type: str, n_layers: int) -> Site:
    """The site called `name` in a model of `n_layers` blocks.

    Raises:
        InputError: the model's family has no row in `FAMILIES`.
        SettingError: no such site, or its layer is out of range.
    """
    family = family_of(model_type)
    match = re.fullmatch(r"blocks\.(-?\d+)\.(.+)", name)
    if not match or match[2] not in KINDS:
        kind = match[2] if match else name.rsplit(".", 1)[-1]
        near = did_you_mean(kind, KINDS).removeprefix("did you mean ").removeprefix("use one of: ").rstrip("?.")
        raise SettingError(
            f"site {name!r} is not a hook name; it has the form blocks.<layer>.<hook> with <hook> {near}."
        )
    layer, kind = int(match[1]), match[2]
    if not 0 <= layer < n_layers:
        raise SettingError(f"site {name!r} names layer {layer}, but the model has layers 0 to {n_layers - 1}.")
    block = f"{family.blocks}.{layer}"
    part, side = _point(kind, family)
    return Site(name, layer, kind, f"{block}.{part}" if part else block, side)


def _point(kind: str, family: Family) -> tuple[str, Literal["input", "output"]]:
    points: dict[str, tuple[str, Literal["input", "output"]]] = {
        "hook_resid_pre": ("", "input"),
        "hook_resid_post": ("", "output"),
        "hook_attn_out": (family.attn, "output"),
        "hook_mlp_out": (family.mlp, "output"),
        "mlp.hook_post": (family.mlp_down, "input"),
        "attn.hook_z": (family.attn_mix, "input"),
    }
    return points[kind]


def norm_after(site: Site, family: Family) -> str | None:
    """Path of the norm between a site's linear map and the residual stream, where a family has one (Gemma 2, 3)."""
    adds, mixes = (family.mlp, family.mlp_down) if site.kind == "mlp.hook_post" else (family.attn, family.attn_mix)
    return None if mixes.startswith(f"{adds}.") else f"{family.blocks}.{site.layer}.{adds}"


def family_of(model_type: str) -> Family:
    """The row of `FAMILIES` for a Hugging Face `model_type`."""
    if model_type not in FAMILIES:
        raise InputError(f"model type {model_type!r} is not supported; {did_you_mean(model_type, FAMILIES)}")
    return FAMILIES[model_type]


def width(site: Site, model: nn.Module) -> int:
    """d_in of an SAE at `site`: the module's input width, else the model's hidden size."""
    if site.reads_linear:
        linear = model.get_submodule(site.path)
        # GPT-2's Conv1D stores its weight as (in, out).
        return int(getattr(linear, "in_features", None) or linear.weight.shape[0])  # type: ignore[index, union-attr, arg-type]
    return int(model.config.hidden_size)  # type: ignore[union-attr, arg-type]
