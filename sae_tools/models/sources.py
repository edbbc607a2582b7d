"""Where models and SAEs come from: a local path or a Hub id, told apart and checked before anything is read.

Imports nothing slow: a wrong path is refused at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sae_tools.common.errors import ArtifactError, InputError, SettingError
from sae_tools.common.settings import Dataset

COMPRESSIONS = (".gz", ".zst", ".xz")
PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


TRANSFORMER_LENS = "transformer-lens:"
"""Stands before the name of a model that only TransformerLens has: no Hub id holds a colon."""
OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")
"""Whose repositories on the Hub are in TransformerLens' own format."""


def looks_local(name: str) -> bool:
    """Whether `name` can't be a Hub id (`name` or `owner/name`), or stands in a folder that exists here."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or ("/" in name and Path(name).parent.is_dir())


ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What an adapter's folder holds, by PEFT's names."""


def check_model(name: str) -> dict[str, Any] | None:
    """The configuration of a local model, an adapter's base's; `None` for a Hub id, which only the Hub can check.

    Raises:
        InputError: no such folder, or one without a model, its weights or its tokenizer.
    """
    folder = Path(name)
    if name.startswith(TRANSFORMER_LENS):
        return None
    if adapter := adapter_config(name):
        return check_model(str(adapter["base_model_name_or_path"]))
    if not folder.is_dir():
        if looks_local(name):
            raise InputError(
                f"model folder {name!r} does not exist; "
                "give an existing folder, or a Hub id such as EleutherAI/pythia-70m."
            )
        return None
    if not (folder / "config.json").is_file():
        what = "a tokenizer without the model" if (folder / "tokenizer.json").is_file() else "no model"
        raise InputError(f"{name!r} holds {what}: config.json is missing; give a folder written by save_pretrained.")
    if not any(folder.glob("*.safetensors")):
        raise no_weights(name, [path.name for path in folder.iterdir()])
    if not any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise InputError(
            f"{name!r} holds a model without its tokenizer; save the tokenizer there with save_pretrained."
        )
    return _json(folder / "config.json")


def no_weights(name: str, files: Iterable[str]) -> InputError:
    """The error for a model without safetensors: pickles are not read."""
    if pickles := sorted(file for file in files if file.endswith(PICKLES)):
        return InputError(
            f"model {name!r} has its weights as a pickle, {pickles[0]}, which can run code when it is read; give one "
            "with .safetensors, which save_pretrained writes."
        )
    return InputError(f"{name!r} holds no weights: no .safetensors file is there; save the model with save_pretrained.")


def adapter_config(name: str) -> dict[str, Any] | None:
    """What a local adapter says of itself, `None` for what is no folder of an adapter.

    Raises:
        InputError: an adapter without weights, or without the name of its base.
    """
    folder = Path(name)
    if not (folder / ADAPTER).is_file():
        return None
    config = _json(folder / ADAPTER)
    if not isinstance(config.get("base_model_name_or_path"), str) or not config["base_model_name_or_path"]:
        raise InputError(f"adapter {name!r} does not name its base; give it as base_model_name_or_path in {ADAPTER}.")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise no_weights(name, [path.name for path in folder.iterdir()])
    return config


def check_adapter(base: str, finetuned: str, its: str) -> None:
    """Refuse a finetune that is an adapter of the model `its`, where that is not the base model.

    Raises:
        InputError: naming both.
    """
    if its == base or (Path(its).is_dir() and Path(base).is_dir() and Path(its).samefile(base)):
        return
    raise InputError(
        f"{finetuned!r} is a finetune of another base: its {ADAPTER} names {its!r}, but language_model.base is "
        f"{base!r}; give one of them the other's name."
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except ValueError:
        raise InputError(f"{str(path)!r} is not JSON; give a folder written by save_pretrained.") from None


def check_sae(folder: Path) -> None:
    """Refuse a folder that holds no SAE by SAELens' conventions, by the names of its files.

    Raises:
        ArtifactError: naming what is expected, and what is there instead: a pickle, or SAEs in folders of their own.
    """
    if (folder / "cfg.json").is_file() and (folder / "sae_weights.safetensors").is_file():
        return
    expected = f"{folder} holds no SAE; cfg.json and sae_weights.safetensors are expected there"
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    if pickles := [path.name for path in there if path.suffix in PICKLES]:
        raise ArtifactError(f"{expected}, and {pickles[0]} is a pickle, which can run code when it is read.")
    if inside := [path.name for path in there if (path / "cfg.json").is_file()]:
        raise ArtifactError(f"{expected}; give one of the folders in it: {', '.join(inside[:5])}.")
    raise ArtifactError(f"{expected}.")


def check_probe(path: str) -> None:
    """A labelled table to probe with, whose contents are checked when it is read.

    Raises:
        InputError: no such file, or not one of the formats.
    """
    suffixes = [suffix for suffix in Path(path).suffixes if suffix not in COMPRESSIONS]
    if not Path(path).is_file():
        raise InputError(f"probe table {path!r} does not exist; give a .csv (also .gz, .zst) or .parquet file.")
    if not suffixes or suffixes[-1] not in (".csv", ".parquet"):
        raise InputError(f"probe table {path!r} is of no known format; give a .csv (also .gz, .zst) or .parquet file.")


def check_labels(path: str) -> None:
    """Refuse labels that are not there.

    Raises:
        InputError: naming the path and the remedy.
    """
    if not Path(path).exists():
        raise InputError(f"labels {path!r} do not exist; give a file or a folder, or set features.labels to null.")


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """The part of a config.json that is about text: a model that also sees has it apart."""
    return config.get("text_config", config)  # type: ignore[no-any-return]


def n_layers(config: dict[str, Any]) -> int:
    """Number of blocks, by whichever name a family's config.json gives it."""
    config = text_config(config)
    for key in ("num_hidden_layers", "n_layer", "num_layers"):
        if key in config:
            return int(config[key])
    raise InputError(
        "config.json does not say how many layers the model has; give a folder written by save_pretrained."
    )


WIDTHS = ("hidden_size", "n_embd", "d_model")


def check_finetune(base: str, config: dict[str, Any], finetuned: str, other: dict[str, Any], least: float) -> None:
    """Refuse, from the two config.json, a model that can be no finetune of the base model.

    Raises:
        InputError: another family, depth or width, or a vocabulary too small to share `least` of the base's tokens.
    """
    depths = n_layers(config), n_layers(other)
    texts = text_config(config), text_config(other)
    widths = [next((int(c[key]) for key in WIDTHS if key in c), 0) for c in texts]
    sizes = [int(c.get("vocab_size", 0)) for c in texts]
    facts = [
        (f"a {config.get('model_type')}", f"a {other.get('model_type')}"),
        (f"{depths[0]} layers deep", f"{depths[1]} layers deep"),
        (f"{widths[0]:,} wide", f"{widths[1]:,} wide"),
    ]
    for mine, its in facts:
        if mine != its:
            raise InputError(f"{finetuned!r} is {its}, but {base!r} is {mine}; give a finetune of the base model.")
    if sizes[1] < least * sizes[0]:
        raise InputError(
            f"{finetuned!r} has {sizes[1]:,} tokens in its vocabulary, but {base!r} has {sizes[0]:,}; "
            "give a finetune of the base model."
        )


def check_context(dataset: Dataset, where: str, model: str, config: dict[str, Any]) -> None:
    """Refuse blocks longer than the model can read.

    Raises:
        SettingError: naming the setting and the limit.
    """
    config = text_config(config)
    limit = config.get("max_position_embeddings", config.get("n_positions"))
    if isinstance(limit, int) and dataset.context_size > limit:
        raise SettingError(
            f"{where}.context_size is {dataset.context_size}, but {model!r} reads at most {limit} tokens; lower it."
        )
