"""Every setting of every stage: its type, its range, what it means. Imports nothing slow, so that a bad value is
refused at once.

Settings are frozen dataclasses whose values are checked and never converted; `read_settings` builds them from plain
values.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as pydantic_dataclass

from sae_tools.common.errors import SettingError

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
    """Model whose activations the SAEs learn: a folder written by save_pretrained, a Hub id, or transformer-lens: and
    the name of a model that only TransformerLens has, such as transformer-lens:gelu-1l."""
    finetuned: Name | None = None
    """A finetune of it, for the transfer study: a model, or a PEFT adapter (LoRA) of the base; null for none."""
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
    device_map: Literal["auto", "balanced"] | None = None
    """Spread each model over all devices of the machine, and what they can't hold over memory and disk, by accelerate;
    null: each model on one device. SAEs stay on `device`."""


@settings
class Dataset:
    path: Name
    """A file (.parquet, or .jsonl, .json, .csv, .txt, also with .gz, .zst, .xz), a folder or glob of such files, or a
    Hub id."""
    split: Name = "train"
    """Which split of a Hub data set."""
    config: Name | None = None
    """Which configuration of a Hub data set."""
    revision: Name | None = None
    """Which commit of a Hub data set."""
    text_column: Name = "text"
    """The column that holds the text."""
    tokens_column: Name | None = None
    """The column that holds lists of token ids, of a data set that is tokenized already; read instead of text."""
    messages_column: Name | None = None
    """The column that holds chats, lists of messages with role and content, for the model's chat template; read instead
    of text."""
    roles: tuple[Literal["system", "user", "assistant", "tool", "control"], ...] = ()
    """Whose tokens of a chat give activations to train on; control: what the template adds. None named: all but special
    tokens."""
    shuffle_buffer: Natural = 0
    """Documents among which the next one is drawn, where they are not in random order already; 0: as they come."""
    context_size: Annotated[int, Field(ge=2)] = 128
    """Tokens in a block, the begin token among them."""
    n_tokens: Natural = 1_000_000
    """Tokens to train on."""
    held_out_tokens: Natural = 65_536
    """Tokens to evaluate on."""
    positions: Literal["all", "middle", "last", "random"] = "all"
    """Which positions of a block give an activation to train on."""
    seed: Natural = 0
    """Orders the documents, if they are shuffled, and the blocks; draws the random positions."""

    def __post_init__(self) -> None:
        if self.tokens_column and self.messages_column:
            raise SettingError(
                f"dataset.tokens_column is {self.tokens_column!r} and dataset.messages_column is "
                f"{self.messages_column!r}, but one column is read; set the other one to null."
            )
        if self.roles and not self.messages_column:
            raise SettingError(
                f"dataset.roles is {list(self.roles)}, but only chats have roles; name dataset.messages_column."
            )

    @property
    def column(self) -> str:
        """The column that is read."""
        return self.tokens_column or self.messages_column or self.text_column


@settings
class Harvest:
    store: Literal["disk", "none"] = "disk"
    """disk: every activation is written once, and each SAE reads it from there. none: all SAEs train at once, from one
    forward pass, and only a first shard is written, as a sample; to change one of them is to train all anew."""
    keep_gb: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """With store none and several epochs: GB of activations kept on disk while they train, not to be computed again."""
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
    latent_parallel: Positive = 1
    """Processes among which the latents of an SAE too wide for one device are divided; torchrun starts a multiple of
    them, which then share each batch."""
    seed: Natural = 0
    """Draws the first weights and the order of the rows."""
    seeds: Positive = 1
    """Number of SAEs to train on the same rows in one pass, from first weights of their own; the first one is used."""
    architecture_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The architecture's own settings, by SAELens' names; in params.yaml they stand beside the others."""

    def __post_init__(self) -> None:
        if self.d_sae % self.latent_parallel:
            raise SettingError(
                f"latent_parallel of an SAE is {self.latent_parallel}, but it must divide d_sae = {self.d_sae}."
            )

    def fits(self, processes: int) -> bool:
        """Whether so many processes can divide its latents and share its batches."""
        return processes % self.latent_parallel == 0 and self.batch_size % (processes // self.latent_parallel) == 0


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
    n_held_out: Positive = 32_768
    """Held-out tokens on which labels are tested, at most."""
    labels: Name | None = None
    """Labels by people or language models, shown in place of those made here: a .csv with columns feature and label,
    Neuronpedia's .json or .jsonl.gz, or a folder of such files or of Delphi's explanations; {sae} in the path stands
    for the SAE's name."""
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
    n_gained: Natural = 8_192
    """Features whose push is tried on held-out text, to see what it makes likelier: those that fire on several whole
    words first."""
    n_calibrated: Natural = 384
    """Features of the best steering score with which texts are written, to find the strength that each one bears."""
    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (0.3, 0.4, 0.5)
    """Strengths to write with, in median norms at the site; each feature is first tried at the middle one."""
    prompts: Annotated[tuple[Name, ...], Field(min_length=1)] = (
        "One morning, Ben and his dad went to the beach.",
        "Sue was playing in the yard with her friend.",
        "Mia and her brother were in the kitchen.",
        "Once there was a boy who lived in a small house.",
        "One day, Jack went to the shop with his grandma.",
        "Anna was lying in her bed.",
    )
    """Beginnings of these texts."""
    new_tokens: Positive = 40
    """Tokens of each text."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.7
    """Temperature at which they are sampled."""
    n_gallery: tuple[Natural, Natural] = (20, 10)
    """Features of the gallery: concepts, and features to steer with."""
