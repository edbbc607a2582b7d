"""How large a model is, by its configuration alone: built without memory for its weights, in any family."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from sae_tools.common.costs import Shape
from sae_tools.models.sites import Side, locate


def shape_of(config: Any, site_name: str) -> Shape:
    """The shape of the model of a configuration as `AutoConfig` gives it, read at a site.

    Raises:
        SettingError: the model has no such site.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = max((found for found in model.modules() if isinstance(found, nn.ModuleList)), key=len)
    d_model = int(config.get_text_config().hidden_size)
    site = locate(site_name, config.to_dict(), len(blocks), {path for path, _ in model.named_modules()})
    last = len(blocks) - 1 if site.layer is None else site.layer
    return Shape(
        parameters=_size(model),
        blocks=tuple(map(_size, blocks)),
        d_vocab=int(model.get_output_embeddings().weight.shape[0]),
        d_model=d_model,
        d_in=_width(model.get_submodule(site.path), site.side, d_model),
        n_blocks=last + (site.kind != "hook_resid_pre"),
        is_stream=site.is_stream,
    )


def _size(module: nn.Module) -> int:
    """Parameters; shared ones once."""
    return sum(weight.numel() for weight in module.parameters())


def _width(module: nn.Module, side: Side, d_model: int) -> int:
    """Of what a linear map is given or gives; what other modules pass on is taken for the stream's."""
    if not isinstance(module, nn.Linear | Conv1D):
        return d_model
    given, gives = module.weight.shape if isinstance(module, Conv1D) else reversed(module.weight.shape)
    return int(given if side == "input" else gives)
