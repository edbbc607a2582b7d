"""A finetune that is published as a PEFT adapter (LoRA and its kin): found, loaded, and added to its base in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_tools.common.errors import InputError
from sae_tools.models.sources import ADAPTER_WEIGHTS, adapter_config

if TYPE_CHECKING:
    from torch import nn


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json"))


def merged(base: nn.Module, folder: Path, name: str) -> nn.Module:
    """The base with an adapter's weights added to its own: W + scale · B A for LoRA.

    Raises:
        InputError: the adapter is of a kind that adds to no weights, or does not fit the base.
    """
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open

    try:
        config: Any = PeftConfig.from_pretrained(str(folder))
        if config.is_prompt_learning or config.task_type not in (None, "CAUSAL_LM"):
            kind = config.peft_type.value if config.is_prompt_learning else config.task_type
            raise InputError(
                f"{name!r} is an adapter of kind {kind}, which no causal language model can be merged with."
            )
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
        ends = _ends(base)
        if rows := [shape[0] for key, shape in shapes.items() if key.endswith(tuple(f"{end}weight" for end in ends))]:
            base.resize_token_embeddings(max(rows), mean_resizing=False)  # type: ignore[operator]
        with warnings.catch_warnings():  # of what is checked below, and of transformers' next version
            warnings.simplefilter("ignore")
            model = PeftModel.from_pretrained(base, str(folder), config=config)
        odd = set(shapes).symmetric_difference(get_peft_model_state_dict(model, save_embedding_layers=False))
        # Those of the embeddings have several names there.
        if odd := {key for key in odd if not any(end in key for end in ends)}:
            raise InputError(f"adapter {name!r} does not fit its base: {min(odd)!r} has no counterpart; save it again.")
        whole: nn.Module = model.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError, SafetensorError) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(f"adapter {name!r} cannot be added to its base: {problem}; save it again with peft.") from None
    return whole


def _ends(base: Any) -> list[str]:
    """Paths of the embedding and the unembedding, of which an adapter with added tokens brings more rows."""
    ends = {id(base.get_input_embeddings()), id(base.get_output_embeddings())}
    return [f".{path}." for path, module in base.named_modules() if id(module) in ends]


def base_of(folder: Path) -> tuple[str, str | None]:
    """Name and revision of the model that an adapter was trained on."""
    config = adapter_config(str(folder)) or {}
    return str(config["base_model_name_or_path"]), config.get("revision")
