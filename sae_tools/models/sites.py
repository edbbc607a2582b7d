"""Names of sites to Hugging Face modules: where in the model an SAE reads and writes.

By TransformerLens' hook names, in the families below:

    blocks.5.hook_resid_post   what block 5 hands on          blocks.5.hook_attn_out   what its attention adds
    blocks.5.hook_resid_pre    what block 5 is given          blocks.5.hook_mlp_out    what its MLP adds
    blocks.5.attn.hook_z       the heads' outputs, unmixed    blocks.5.mlp.hook_post   the MLP's hidden activations

Or by a module's path, in any family, as `model.named_modules()` gives it:

    model.layers.5.mlp         what the module hands on       model.layers.5.mlp:input   what it is given

`hook_resid_mid` is left out: no module hands on the stream between attention and MLP, so a patch there would reach the
MLP alone. A new model family is one row of `FAMILIES`. Touches no weights and imports nothing slow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from sae_tools.common.errors import SettingError

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Family:
    """Module paths of one architecture; those of a block's parts are relative to the block."""

    blocks: str
    attn: str
    """Module whose output is added to the residual stream after attention."""
    attn_mix: str
    """Linear map that reads the concatenated heads."""
    mlp: str
    """Module whose output the MLP adds."""
    mlp_down: str
    """Linear map that reads the MLP's hidden activations."""


_GPT2 = Family("transformer.h", "attn", "attn.c_proj", "mlp", "mlp.c_proj")
_LLAMA = Family("model.layers", "self_attn", "self_attn.o_proj", "mlp", "mlp.down_proj")
# Gemma 2 and 3 and OLMo 2 norm each sublayer's output before adding it.
_NORM_AFTER = ("post_attention_layernorm", "self_attn.o_proj", "post_feedforward_layernorm", "mlp.down_proj")
_GEMMA2 = Family("model.layers", *_NORM_AFTER)

FAMILIES: dict[str, Family] = {
    "gpt2": _GPT2,
    "gpt_neo": Family("transformer.h", "attn.attention", "attn.attention.out_proj", "mlp", "mlp.c_proj"),
    "gpt_neox": Family("gpt_neox.layers", "attention", "attention.dense", "mlp", "mlp.dense_4h_to_h"),
    "gptj": Family("transformer.h", "attn", "attn.out_proj", "mlp", "mlp.fc_out"),
    "opt": Family("model.decoder.layers", "self_attn", "self_attn.out_proj", "fc2", "fc2"),
    "falcon": Family("transformer.h", "self_attention", "self_attention.dense", "mlp", "mlp.dense_4h_to_h"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "phi3": _LLAMA,
    "gemma": _LLAMA,
    "olmo2": _GEMMA2,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "gemma3": Family("model.language_model.layers", *_NORM_AFTER),
}

KINDS = ("hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "mlp.hook_post", "attn.hook_z")
MODULE = "module"
"""Kind of a site by a module's path that no hook name stands for."""


@dataclass(frozen=True)
class Site:
    """A point in a model: the input or the output of one module."""

    name: str
    layer: int | None
    """Number of the block that it lies in; None outside of the blocks."""
    kind: str
    path: str
    """Dotted path of the module."""
    side: Side

    @property
    def is_stream(self) -> bool:
        """Whether the site is the whole residual stream: what follows then depends on nothing else."""
        return self.kind in ("hook_resid_pre", "hook_resid_post")


def family_of(config: dict[str, Any]) -> Family | None:
    """The row of `FAMILIES` for a model's config.json, `None` for a model whose sites have no hook names here.

    OPT-350m is one: it norms the stream itself after each sublayer, so nothing that is added to it stays there.
    """
    if config.get("model_type") == "opt" and not config.get("do_layer_norm_before", True):
        return None
    return FAMILIES.get(str(config.get("model_type")))


def locate(name: str, config: dict[str, Any], n_layers: int, modules: Collection[str] | None = None) -> Site:
    """The site called `name` in a model of `n_layers` blocks.

    Without `modules`, the paths of all of the model's modules, a path is only held to the form of one.

    Raises:
        SettingError: no such site, its layer is out of range, or a hook name where the family has no row.
    """
    family = family_of(config)
    hook = re.fullmatch(r"blocks\.(-?\d+)\.(.+)", name)
    if hook and hook[2] in KINDS:
        return _by_hook(name, int(hook[1]), hook[2], family, config, n_layers, modules or ())
    path, _, side = name.partition(":")
    is_path = re.fullmatch(r"\w+(\.\w+)*(:input|:output)?", name) and "hook_" not in name
    if not is_path or (modules is None and path.startswith("blocks.")) or (modules is not None and path not in modules):
        raise SettingError(
            f"site {name!r} does not exist in this model; {_remedy(path, family, n_layers, modules or ())}."
        )
    return _by_path(name, path, "input" if side == "input" else "output", family)


def _by_hook(
    name: str, layer: int, kind: str, family: Family | None, config: dict[str, Any], n_layers: int,
    modules: Collection[str],
) -> Site:  # fmt: skip
    if family is None:
        raise SettingError(
            f"site {name!r} is a TransformerLens hook name, which stands for no module of this model of type "
            f"{config.get('model_type')!r}; {_remedy(f'layers.{layer}', family, n_layers, modules)}."
        )
    if not 0 <= layer < n_layers:
        raise SettingError(f"site {name!r} names layer {layer}, but the model has layers 0 to {n_layers - 1}.")
    return Site(name, layer, kind, *_points(family, layer)[kind])


def _by_path(name: str, path: str, side: Side, family: Family | None) -> Site:
    found = re.match(rf"{re.escape(family.blocks) if family else '.*?'}\.(\d+)(\.|$)", path)
    layer = int(found[1]) if found else None
    points = _points(family, layer) if family and layer is not None else {}
    return Site(name, layer, next((kind for kind in points if points[kind] == (path, side)), MODULE), path, side)


def _points(family: Family, layer: int) -> dict[str, tuple[str, Side]]:
    """The module and the side that each kind of hook stands for in a block."""
    block = f"{family.blocks}.{layer}"
    return {
        "hook_resid_pre": (block, "input"),
        "hook_resid_post": (block, "output"),
        "hook_attn_out": (f"{block}.{family.attn}", "output"),
        "hook_mlp_out": (f"{block}.{family.mlp}", "output"),
        "mlp.hook_post": (f"{block}.{family.mlp_down}", "input"),
        "attn.hook_z": (f"{block}.{family.attn_mix}", "input"),
    }


def _remedy(path: str, family: Family | None, n_layers: int, modules: Collection[str]) -> str:
    """Names that do exist: the hook names, and modules whose path is like `path`."""
    near = difflib.get_close_matches(path, [module for module in modules if module], n=3, cutoff=0.4)
    example = f"{family.blocks if family else 'model.layers'}.{n_layers // 2}.{family.mlp if family else 'mlp'}"
    paths = f"the path of a module, such as {', '.join(near or [example])}"
    if family is None:
        return f"give {paths}"
    kinds = ", ".join(KINDS)
    return f"give blocks.<layer>.<hook> with layers 0 to {n_layers - 1} and hooks {kinds}, or {paths}"
