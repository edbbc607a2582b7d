"""From a name to a causal language model and its tokenizer.

The name of a folder or a Hub id, of a whole model or of an adapter, or of a model that only TransformerLens has.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from sae_tools.common.errors import InputError
from sae_tools.models import adapters, hooked, remote
from sae_tools.models.sources import TRANSFORMER_LENS, adapter_config, check_model, no_weights

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(name: str, revision: str | None, dtype: str, device_map: str | None) -> nn.Module:
    """The model of that name, safetensors only, an adapter added to its base.

    Raises:
        InputError: it cannot be had, is no causal language model, or needs code of its own.
    """
    if name.startswith(TRANSFORMER_LENS):
        return hooked.load_model(name.removeprefix(TRANSFORMER_LENS), revision, DTYPES[dtype])
    if (folder := adapter_folder(name, revision)) is not None:
        base, base_revision = adapters.base_of(folder)
        return adapters.merged(load_model(base, base_revision, dtype, device_map), folder, name)
    config = load_config(name, revision)
    place, revision = _place(name, revision)
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            place, revision=revision, config=config, dtype=DTYPES[dtype], use_safetensors=True,
            trust_remote_code=False, device_map=device_map, output_loading_info=True,
        )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        files = [] if Path(place).is_dir() else remote.files_of(name, revision)
        if files and not any(file.endswith(".safetensors") for file in files):
            raise no_weights(name, files) from None
        raise _unreadable(name, error) from None
    if absent := sorted(loading["missing_keys"]):
        # transformers would fill it with random numbers and only log it.
        raise InputError(f"model {name!r} lacks the weight {absent[0]!r}; save it again with save_pretrained.")
    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise InputError(
            f"model {name!r} is of type {config.model_type!r}, which has no attention and is not supported; "
            "give a transformer."
        )
    whole: nn.Module = model
    return whole


def load_config(name: str, revision: str | None) -> Any:
    """The configuration of a model, an adapter's base's.

    Raises:
        InputError: as `load_model`, from the configuration alone.
    """
    if name.startswith(TRANSFORMER_LENS):
        return hooked.load_config(name.removeprefix(TRANSFORMER_LENS), revision)
    if (folder := adapter_folder(name, revision)) is not None:
        return load_config(*adapters.base_of(folder))
    place, revision = _place(name, revision)
    try:
        values, _ = PreTrainedConfig.get_config_dict(place, revision=revision)
        _check_kind(name, values)
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def load_tokenizer(name: str, revision: str | None) -> Any:
    """The tokenizer of a model, an adapter's own or else its base's.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    if name.startswith(TRANSFORMER_LENS):
        return hooked.load_tokenizer(name.removeprefix(TRANSFORMER_LENS), revision)
    if (folder := adapter_folder(name, revision)) is not None and not adapters.has_tokenizer(folder):
        return load_tokenizer(*adapters.base_of(folder))
    place, revision = _place(name, revision)
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None


def adapter_folder(name: str, revision: str | None) -> Path | None:
    """The folder of an adapter, fetched if it is on the Hub; `None` for a whole model.

    Raises:
        InputError: an adapter that is incomplete, or a Hub id that cannot be had.
    """
    if name.startswith(TRANSFORMER_LENS):
        return None
    folder = Path(_place(name, revision)[0])
    return folder if adapter_config(str(folder)) else None


def _place(name: str, revision: str | None) -> tuple[str, str | None]:
    """Where a model is read from: a folder, or a Hub id and its revision."""
    check_model(name)
    if Path(name).is_dir():
        return name, None
    found = remote.find(name, revision)
    return (str(found), None) if isinstance(found, Path) else (name, revision)


def _check_kind(name: str, config: dict[str, Any]) -> None:
    """Refuse what needs code of its own, and what does not predict the next token."""
    kind, own = config.get("model_type"), config.get("architectures") or []
    if "auto_map" in config and kind not in CONFIG_MAPPING:
        raise InputError(
            f"model {name!r} of type {kind!r} brings code of its own, which is not run here; give a model whose "
            "architecture is part of transformers."
        )
    is_masked = any(architecture.endswith("MaskedLM") for architecture in own)
    if kind in CONFIG_MAPPING and (kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or is_masked):
        raise InputError(
            f"model {name!r} of type {kind!r} is no causal language model{f' but a {own[0]}' if own else ''}; give one "
            "that predicts the next token."
        )


def _unreadable(name: str, error: Exception) -> InputError:
    return InputError(
        f"model {name!r} cannot be loaded: {remote.first_line(error)}; give a folder written by save_pretrained, or a "
        "Hub id."
    )
