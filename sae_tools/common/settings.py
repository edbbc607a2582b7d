"""Every setting of every stage: its type, its range, what it means. Imports nothing slow, so that a bad value is
refused at once.

Settings are frozen dataclasses whose values are checked and never converted: `read` builds one from plain values.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from sae_tools.common.errors import SettingError, did_you_mean

T = TypeVar("T")

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Name = Annotated[str, Field(min_length=1)]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass_transform(frozen_default=True)
def settings(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass whose values are checked."""
    decorate: Callable[[type[T]], Any] = pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
    decorated: type[T] = decorate(cls)
    return decorated


@settings
class Models:
    base: Name
    """Model whose activations the SAEs learn: a folder written by save_pretrained, or a Hub id."""
    finetuned: Name | None = None
    """A finetune of it, for the transfer study; null for none."""
    revision: Name | None = None
    """Commit, branch or tag of a Hub base model."""
    finetuned_revision: Name | None = None
    """Commit, branch or tag of a Hub finetuned model."""
    least_agreement: Annotated[float, Field(ge=0, le=1)] = 0.99
    """Share of the base model's token ids that must mean the same in the finetuned model."""
    dtype: Dtype = "float32"
    """Precision of the models' weights and activations."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Where the models and SAEs run: auto, cpu, cuda, cuda:1, mps."""


@settings
class Dataset:
    path: Name
    """A file (.parquet, .jsonl, .jsonl.gz, .csv, .txt) or a Hub id."""
    split: Name = "train"
    """Which split of a Hub data set."""
    config: Name | None = None
    """Which configuration of a Hub data set."""
    revision: Name | None = None
    """Which commit of a Hub data set."""
    text_column: Name = "text"
    """The column that holds the text."""
    context_size: Annotated[int, Field(ge=2)] = 128
    """Tokens in a block, the begin token among them."""
    n_tokens: Natural = 1_000_000
    """Tokens to train on."""
    held_out_tokens: Natural = 65_536
    """Tokens to evaluate on."""
    positions: Literal["all", "middle", "last", "random"] = "all"
    """Which positions of a block give an activation to train on."""
    seed: Natural = 0
    """Orders the blocks, and draws the random positions."""


@settings
class Harvest:
    batch_size: Positive = 32
    """Blocks in one forward pass."""
    shard_rows: Positive = 131_072
    """Activations in one shard; rows are shuffled within it."""
    dtype: Dtype = "bfloat16"
    """Precision on disk."""
    seed: Natural = 0
    """Shuffles the rows."""


@settings
class Recipe:
    architecture: Name
    """One of SAELens' architectures, or the dotted name of a module that registers one under the module's last name."""
    d_sae: Positive
    """Number of latents."""
    training_tokens: Positive
    """Activations to train on; more than were harvested means several epochs, each in its own order."""
    batch_size: Positive = 4096
    """Activations in a step."""
    lr: PositiveFloat = 0.0003
    """Adam's learning rate."""
    lr_warm_up_steps: Natural = 0
    """Steps in which the learning rate grows from 0."""
    lr_decay_steps: Natural = 0
    """Last steps, in which the learning rate falls to 0."""
    dead_after_tokens: Positive = 1_000_000
    """A latent that has not fired for this many tokens counts as dead."""
    product_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the encoder's product (of every product where many latents fire); auto: bfloat16 where it is faster.
    Weights and Adam are always float32."""
    step: Literal["auto", "sparse", "dense"] = "auto"
    """How a step is done: from the few latents that fire, or by SAELens' dense pass; auto: the faster of both, which
    the first steps find out where no measurement tells: on a GPU, and where steps are small."""
    target_l0: PositiveFloat | None = None
    """Latents that should fire on a token: the coefficient of the sparsity loss is steered towards it, from the one
    that is given. For standard, gated and jumprelu; with JumpReLU's quadratic loss it is an option of that loss."""
    frozen_decoder: bool = False
    """Leave the decoder at its random start: what the same recipe gives by chance, to compare with."""
    resample_every: Natural = 0
    """Steps after which dead latents of a standard SAE get new directions, in the first half of training; 0: never."""
    seed: Natural = 0
    """Draws the first weights and the order of the rows."""
    seeds: Positive = 1
    """Number of SAEs to train on the same rows in one pass, from first weights of their own; the first one is used."""
    architecture_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The architecture's own settings, by SAELens' names; in params.yaml they stand beside the others."""


@settings
class Pretrained:
    release: Name
    """A SAELens release, a Hub repository of SAEs, or a local folder."""
    sae_id: str = ""
    """Which SAE of the release; nothing for a folder that is one SAE."""


@settings
class Evaluate:
    n_tokens: Positive = 65_536
    """Held-out tokens to evaluate on, at most."""
    batch_size: Positive = 16
    """Blocks in one forward pass."""
    probes: tuple[Name, ...] = ()
    """Tables with columns prompt and target (.csv, .csv.zst, .parquet): how well do the best few latents tell the two
    targets apart, beside all of the activation?"""
    baseline: bool = False
    """Also train each recipe with its decoder frozen at the random start, and compare: what does chance give?"""


@settings
class Adapt:
    n_tokens: Positive = 300_000
    """Activations of the finetuned model to train each repaired SAE on; more than the pair has means several epochs."""
    extra_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Latents that the extended SAE has more than the base SAE, and how much more often they may fire, as a share."""
    batch_size: Positive = 1024
    """Activations in a step."""
    lr: PositiveFloat | None = None
    """Adam's learning rate; null for the recipe's."""


@settings
class Diff:
    d_sae: Positive
    """Latents of the crosscoder, over both models."""
    training_tokens: Positive
    """Pairs of activations to train on; more than there are means several epochs."""
    k: PositiveFloat = 32.0
    """Latents that fire on a token, on average."""
    batch_size: Positive = 4096
    """Pairs in a step."""
    lr: PositiveFloat = 0.0003
    """Adam's learning rate; it falls to 0 in the second half."""
    n_tokens: Positive = 32_768
    """Held-out tokens on which the latents are measured, at most."""
    n_examples: Natural = 20
    """Latents shown with examples: so many of the most base-only ones, and of the most finetuned-only ones."""
    seed: Natural = 0
    """Draws the first weights, the sample that the scales are taken from, and the order of the rows."""

    def __post_init__(self) -> None:
        if self.k > self.d_sae:
            raise SettingError(f"k of a crosscoder is {self.k:g}, but it should be at most d_sae = {self.d_sae}.")


@settings
class Transfer:
    dataset: Dataset | None = None
    """A second text, the finetuned model's own: both models are also evaluated on its held-out tokens."""
    n_tokens: Positive = 32_768
    """Tokens of each text, at most."""
    batch_size: Positive = 16
    """Blocks in one forward pass."""
    outlier_norm: PositiveFloat | None = None
    """Norm above which an activation is an outlier; null: twice the base model's mean norm."""
    own: bool | Pretrained = False
    """An SAE of the finetuned model, to evaluate beside the base SAE in both models: a release or folder, or true to
    train one by the same recipe."""
    pair_tokens: Natural = 300_000
    """Tokens that both models read for `own`, `adapt` and `diff`: half from the train part of each text."""
    adapt: Adapt | None = None
    """Repair the SAE for the finetuned model, in three ways to compare; null: don't."""
    diff: Diff | None = None
    """A crosscoder over both models: which latents does one of them have alone? null: none."""


@settings
class Features:
    n_tokens: Positive = 300_000
    """Training tokens to look for examples in, at most; needs about 12 bytes x L0 of memory for each."""
    batch_size: Positive = 32
    """Blocks in one forward pass."""
    n_top: Positive = 10
    """Strongest examples kept for a feature."""
    n_per_band: Natural = 2
    """Examples kept from each quarter of a feature's range."""
    window: Positive = 12
    """Tokens shown before an example's token; half as many are shown after it."""
    n_promoted: Positive = 10
    """Tokens that a feature makes more likely, and less likely, to keep."""
    n_neighbours: Natural = 8
    """Nearest features by decoder direction to keep."""


CHOICES = {
    "normalize_activations": ("none", "expected_average_only_in", "layer_norm"),
    "jumprelu_sparsity_loss_mode": ("step", "tanh", "quadratic"),
}
ABOVE_ZERO = {"jumprelu_bandwidth", "jumprelu_tanh_scale", "decoder_init_norm", "lp_norm", "max_iterations"}
_SHARED: dict[str, type] = {"apply_b_dec_to_input": bool, "normalize_activations": str, "decoder_init_norm": float}
_L1 = {**_SHARED, "l1_coefficient": float, "l1_warm_up_steps": int}
_TOPK = {
    **_SHARED,
    "k": int,
    "aux_loss_coefficient": float,
    "rescale_acts_by_decoder_norm": bool,
}
_BATCH_TOPK = {**_TOPK, "k": float, "topk_threshold_lr": float}
_JUMPRELU = {
    **_SHARED,
    "jumprelu_init_threshold": float,
    "jumprelu_bandwidth": float,
    "jumprelu_sparsity_loss_mode": str,
    "l0_coefficient": float,
    "l0_warm_up_steps": int,
    "pre_act_loss_coefficient": float,
    "jumprelu_tanh_scale": float,
    "jumprelu_ste_to_input": bool,
    "target_l0": float,
}
_PURSUIT = {**_SHARED, "residual_threshold": float, "max_iterations": int, "stop_on_duplicate_support": bool}

_COEFFICIENTS = {"l1_coefficient", "l0_coefficient"}

ARCHITECTURES: dict[str, dict[str, type]] = {
    "standard": {**_L1, "lp_norm": float},
    "gated": _L1,
    "topk": _TOPK,
    "abstopk": _TOPK,
    "batchtopk": _BATCH_TOPK,
    "matryoshka_batchtopk": {**_BATCH_TOPK, "matryoshka_widths": list, "use_matryoshka_aux_loss": bool},
    "jumprelu": _JUMPRELU,
    "matching_pursuit": _PURSUIT,
}
"""SAELens' trainable architectures and their own settings (a test holds this to SAELens' registry), but for
`use_sparse_activations`: SAELens 6.54 can't train with it on a CPU."""


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
