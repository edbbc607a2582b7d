"""Plain values, as a params file has them, to settings: what is wrong is refused in one sentence."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from sae_tools.common.architectures import ABOVE_ZERO, ARCHITECTURES, CHOICES
from sae_tools.common.errors import SettingError, did_you_mean
from sae_tools.common.settings import Pretrained, Recipe

T = TypeVar("T")
_COEFFICIENTS = {"l1_coefficient", "l0_coefficient"}


def read(cls: type[T], values: object, where: str) -> T:
    """Build settings of type `cls` from a mapping.

    Raises:
        SettingError: naming `where`, the key, the value that was given and what is expected.
    """
    if not isinstance(values, Mapping):
        raise SettingError(f"{where} is {values!r}, but a mapping of names to values is expected.")
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise SettingError(f"{where}.{key} is not a known setting; {did_you_mean(str(key), known)}")
    try:
        # By way of JSON: there strict checking still takes a mapping for nested settings.
        return TypeAdapter(cls).validate_json(json.dumps(dict(values), default=str))
    except ValidationError as error:
        raise SettingError(_sentence(error.errors()[0], where)) from None


def read_sae(values: object, where: str) -> Recipe | Pretrained:
    """A training recipe, or the pretrained SAE that takes its place when `release` is given.

    Raises:
        SettingError: as `read`.
    """
    if isinstance(values, Mapping) and "release" in values:
        return read(Pretrained, values, where)
    if not isinstance(values, Mapping) or "architecture" not in values:
        raise SettingError(f"{where} is {values!r}, but an `architecture` or a pretrained `release` is expected.")
    architecture = str(values["architecture"])
    shared = {field.name for field in dataclasses.fields(Recipe)} - {"architecture_options"}
    if values.get("jumprelu_sparsity_loss_mode") == "quadratic":
        shared -= {"target_l0"}  # a part of that loss
    options = {key: value for key, value in values.items() if key not in shared}
    if architecture in ARCHITECTURES:
        for key, value in options.items():
            _check_option(architecture, str(key), value, shared, where)
    elif not _is_module(architecture):
        raise SettingError(f"{where}.architecture is {architecture!r}; {did_you_mean(architecture, ARCHITECTURES)}")
    recipe = read(Recipe, {**{k: v for k, v in values.items() if k in shared}, "architecture_options": options}, where)
    _check_sizes(recipe, where)
    return recipe


def _is_module(name: str) -> bool:
    """Whether a dotted name is that of a module that can be imported; it is not."""
    try:
        return "." in name and importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _check_option(architecture: str, key: str, value: object, shared: set[str], where: str) -> None:
    own = ARCHITECTURES[architecture]
    if key not in own:
        raise SettingError(f"{where}.{key} is not a setting of {architecture}; {did_you_mean(key, shared | set(own))}")
    kinds = (float, int) if own[key] is float else (own[key],)
    if not isinstance(value, kinds) or (isinstance(value, bool) and own[key] is not bool):
        raise SettingError(f"{where}.{key} is {value!r}, but a value of type {own[key].__name__} is expected.")
    if key in CHOICES and value not in CHOICES[key]:
        raise SettingError(f"{where}.{key} is {value!r}; {did_you_mean(str(value), CHOICES[key])}")
    if own[key] in (int, float) and not (0 <= value < math.inf and (value > 0 or key not in ABOVE_ZERO)):  # type: ignore[operator]
        least = "above 0" if key in ABOVE_ZERO else "of at least 0"
        raise SettingError(f"{where}.{key} is {value!r}, but a finite number {least} is expected.")


def _check_sizes(recipe: Recipe, where: str) -> None:
    """The settings whose range depends on another."""
    options, d_sae = recipe.architecture_options, recipe.d_sae
    own = ARCHITECTURES.get(recipe.architecture, {})
    if not 0 < options.get("k", 1) <= d_sae:
        raise SettingError(f"{where}.k is {options['k']}, but it should lie between 1 and d_sae = {d_sae}.")
    if recipe.target_l0 is not None and recipe.architecture in ARCHITECTURES and not _COEFFICIENTS & set(own):
        raise SettingError(
            f"{where}.target_l0 is {recipe.target_l0:g}, but {recipe.architecture} has no sparsity coefficient to "
            + ("steer; set k." if "k" in own else "steer; remove it.")
        )
    if recipe.target_l0 is not None and recipe.target_l0 >= d_sae:
        raise SettingError(f"{where}.target_l0 is {recipe.target_l0:g}, but it should be below d_sae = {d_sae}.")
    if recipe.resample_every and recipe.frozen_decoder:
        raise SettingError(
            f"{where}.resample_every is {recipe.resample_every}, but a frozen decoder stays; set it to 0."
        )
    if recipe.resample_every and recipe.architecture != "standard":
        raise SettingError(
            f"{where}.resample_every is {recipe.resample_every}, but only standard SAEs are resampled; set it to 0."
        )
    if recipe.architecture == "matryoshka_batchtopk":
        widths = options.get("matryoshka_widths")
        whole = isinstance(widths, list) and widths and all(type(width) is int for width in widths)
        if not whole or sorted({0, *widths}) != [0, *widths] or widths[-1] > d_sae:  # type: ignore[misc, index]
            raise SettingError(
                f"{where}.matryoshka_widths is {widths!r}, but increasing sizes up to d_sae = {d_sae} are expected."
            )


def _sentence(error: Any, where: str) -> str:
    path = ".".join([where, *(str(part) for part in error["loc"] if not isinstance(part, str) or part.isidentifier())])
    if error["type"] in ("missing", "missing_argument"):
        return f"{path} is missing; add it."
    if error["type"] == "unexpected_keyword_argument":
        return f"{path} is not a known setting; remove it or correct its spelling."
    problem = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{path} is {error['input']!r}, but it {problem}."
