"""params.yaml to settings: its only reader. What can be refused without reading a model or a text is refused here."""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from sae_tools.common.errors import SettingError, WorkbenchError, did_you_mean
from sae_tools.common.read_settings import read, read_sae
from sae_tools.common.settings import (
    Dataset,
    Evaluate,
    Features,
    Harvest,
    Models,
    Pretrained,
    Recipe,
    Transfer,
)
from sae_tools.models.sites import locate
from sae_tools.models.sources import (
    adapter_config,
    check_adapter,
    check_context,
    check_finetune,
    check_labels,
    check_model,
    check_probe,
    n_layers,
)
from sae_tools.models.texts import check_dataset

SECTIONS = ("language_model", "dataset", "site", "harvest", "saes", "evaluate", "transfer", "features")


@dataclass(frozen=True)
class Params:
    language_model: Models
    dataset: Dataset
    site: str
    harvest: Harvest
    saes: dict[str, Recipe | Pretrained]
    evaluate: Evaluate
    transfer: Transfer
    features: Features


def load(path: Path = Path("params.yaml")) -> Params:
    """Read and check a params file.

    Raises:
        WorkbenchError: the first thing that is wrong, and the remedy.
    """
    values = _read_yaml(path)
    for key in values:
        if key not in SECTIONS:
            raise SettingError(f"{key} is not a section of {path}; {did_you_mean(str(key), SECTIONS)}")
    for key in SECTIONS:
        if key not in values:
            raise SettingError(f"{path} has no section {key}; add it.")
    saes = values["saes"]
    if not isinstance(saes, dict) or not saes:
        raise SettingError(f"saes is {saes!r}, but a mapping of names to SAEs is expected.")
    for name in saes:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", str(name)):
            raise SettingError(f"saes.{name} is not a usable name; use letters, digits, - and _.")
    params = Params(
        read(Models, values["language_model"], "language_model"),
        read(Dataset, values["dataset"], "dataset"),
        values["site"],
        read(Harvest, values["harvest"], "harvest"),
        {str(name): read_sae(recipe, f"saes.{name}") for name, recipe in saes.items()},
        read(Evaluate, values["evaluate"], "evaluate"),
        read(Transfer, values["transfer"], "transfer"),
        read(Features, values["features"], "features"),
    )
    _check_sources(params)
    return params


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        # DVC's own reader (YAML 1.2), so that 1e-4 is the same number to both.
        values = YAML(typ="safe", pure=True).load(path)
    except OSError:
        raise SettingError(
            f"{path} does not exist; run from the project's folder, or copy one from presets/."
        ) from None
    except YAMLError as error:
        raise SettingError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise SettingError(f"{path} holds {type(values).__name__}, but sections are expected: {', '.join(SECTIONS)}.")
    return values


def _check_sources(params: Params) -> None:
    if not isinstance(params.site, str):
        raise SettingError(f"site is {params.site!r}, but a site such as blocks.2.hook_resid_post is expected.")
    datasets = {"dataset": params.dataset}
    if params.transfer.dataset is not None:
        datasets["transfer.dataset"] = params.transfer.dataset
    for where, dataset in datasets.items():
        check_dataset(dataset)
        for name in ("n_tokens", "held_out_tokens"):
            if getattr(dataset, name) == 0 and (where, name) != ("transfer.dataset", "n_tokens"):
                raise SettingError(f"{where}.{name} is 0, but it should be greater than 0.")
    second = params.transfer.dataset
    study = params.transfer
    if second and (study.own or study.adapt or study.diff) and second.context_size != params.dataset.context_size:
        raise SettingError(
            f"transfer.dataset.context_size is {second.context_size}, but dataset.context_size is "
            f"{params.dataset.context_size}; give both texts the same."
        )
    for name, recipe in params.saes.items() if study.adapt else ():
        if isinstance(recipe, Recipe) and recipe.architecture == "matching_pursuit":
            raise SettingError(
                f"saes.{name} is of architecture 'matching_pursuit', which cannot be adapted; "
                "set transfer.adapt to null."
            )
    for probe in params.evaluate.probes:
        check_probe(probe)
    for name in params.saes if params.features.labels else ():
        check_labels(labels_of(params.features, name))
    base, finetuned = params.language_model.base, params.language_model.finetuned
    configs = {model: check_model(model) for model in (base, finetuned) if model}
    if finetuned and (adapter := adapter_config(finetuned)):
        check_adapter(base, finetuned, adapter["base_model_name_or_path"])
    one, other = configs[base], configs.get(finetuned or "")
    if finetuned and one and other:
        check_finetune(base, one, finetuned, other, params.language_model.least_agreement)
    for model, config in configs.items():
        if config is not None:
            locate(params.site, config, n_layers(config))
            for where, dataset in datasets.items():
                check_context(dataset, where, str(model), config)


def labels_of(features: Features, name: str) -> str:
    """Where the labels of the SAE called `name` lie; nothing if there are none."""
    return (features.labels or "").replace("{sae}", name)


def sae_named(params: Params, name: str) -> Recipe | Pretrained:
    """The SAE called `name`.

    Raises:
        SettingError: there is none.
    """
    if name not in params.saes:
        raise SettingError(f"saes.{name} does not exist; {did_you_mean(name, params.saes)}")
    return params.saes[name]


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def run(stage: Callable[..., None], *, named: bool = True) -> None:
    """Run a stage, for the SAE named on the command line.

    A known error is one sentence and exit code 2; SIGTERM and Ctrl-C end it with 143 and 130.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("sae_tools").setLevel(logging.INFO)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    arguments = sys.argv[1:]
    try:
        if len(arguments) != named:
            usage = "one name of saes in params.yaml" if named else "no argument"
            raise SettingError(f"the arguments are {arguments}, but {usage} is expected.")
        params = load()
        for name in arguments:
            sae_named(params, name)
        stage(params, *arguments)
    except WorkbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
