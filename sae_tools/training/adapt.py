"""A base model's SAE, repaired for a finetune of that model by training on few of the finetune's activations.

finetuned   go on training the base SAE
extended    keep the base SAE and train further latents on what it leaves over: one SAE whose first latents, and b_dec,
            are bit for bit those of the base SAE
scratch     a fresh SAE by the same recipe, to compare with

All have the recipe's loss, and its schedules shortened to the tokens at hand. Where L0 can be set or steered, it is
the base SAE's; the extended one has the L0 of the base SAE in the finetuned model, and a share of the former more.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.activations.shards import Shards
from sae_tools.common.architectures import ARCHITECTURES, CHOICES
from sae_tools.common.draws import generator
from sae_tools.common.errors import InputError, did_you_mean
from sae_tools.common.settings import Adapt, Recipe
from sae_tools.saes import SAE
from sae_tools.training.run import CHECKPOINT_SECONDS, Watch
from sae_tools.training.train import norm_scale, train
from sae_tools.training.weights import copy_latents, widened

Way = Literal["finetuned", "extended", "scratch"]
WAYS: tuple[Way, ...] = get_args(Way)
SHARES = (0, 1 / 8, 1 / 4, 1 / 2, 1)
"""Of the tokens: where the curve has its points."""
SAMPLE = 8_192
"""Rows, at least, from which a mean norm, an L0 and new directions are taken."""
CHUNK = 1_024
"""Rows encoded at a time: their features are (rows, d_sae)."""
COEFFICIENTS = {"l1_coefficient": "l1_warm_up_steps", "l0_coefficient": "l0_warm_up_steps"}
"""Of the sparsity losses, and the setting of their warm-up."""


@dataclass(frozen=True)
class Adapted:
    """A repaired SAE as it is saved."""

    sae: SAE[Any]
    watched: list[dict[str, float]]
    """What was measured at `SHARES` of the tokens, each with its `tokens`."""
    recipe: Recipe
    """What it was trained by: `target_l0` or `k` is the L0 that it was given."""
    coefficient: float
    """Of the sparsity loss at the end; 0 where there is none."""


@dataclass(frozen=True)
class Plan:
    """How one way trains: from which SAE, how many of whose latents are kept."""

    recipe: Recipe
    start: SAE[Any] | None = None
    frozen_latents: int = 0


def adapt(
    base: SAE[Any],
    plan: Plan,
    shards: Shards,
    metadata: dict[str, Any],
    device: str,
    measure: Callable[[SAE[Any]], dict[str, float]],
    folder: Path | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> Adapted:
    """Repair `base` by `plan` on the finetuned model's `shards`, resumable in a `folder` of its own as `train` is.

    Raises:
        WorkbenchError, SystemExit: as `train`.
    """
    recipe = dataclasses.replace(plan.recipe, latent_parallel=1)  # one process repairs
    normalise = recipe.architecture_options.get("normalize_activations") == "expected_average_only_in"
    n_steps = -(-recipe.training_tokens // recipe.batch_size)
    trained = train(
        lambda first: shards.batches(recipe.batch_size, recipe.training_tokens, recipe.seed, first),
        shards.d_in,
        recipe,
        metadata,
        device,
        norm_scale(shards.sample(SAMPLE, recipe.seed)) if normalise else 1.0,
        folder,
        checkpoint_seconds,
        start=plan.start,
        frozen_latents=plan.frozen_latents,
        watch=Watch(tuple(sorted({round(share * n_steps) for share in SHARES})), measure),
    )
    sae = saes.inference(trained.sae)
    if plan.frozen_latents:
        copy_latents(base, sae, plan.frozen_latents)
    return Adapted(sae, trained.watched, recipe, trained.curve[-1]["coefficient"])


def plan(
    way: Way,
    base: SAE[Any],
    recipe: Recipe,
    base_rows: Tensor,
    shards: Shards,
    config: Adapt,
    coefficient: float | None = None,
) -> Plan:
    """How `way` repairs `base`, which `recipe` made, on the finetuned model's `shards`.

    `base_rows` (n, d_in) are the base model's activations; `coefficient` is that of the sparsity loss at the end of the
    base SAE's training, where it was steered.

    Raises:
        InputError: as `check_architecture`.
    """
    check_architecture(recipe.architecture)
    l0 = recipe.architecture_options.get("k") or recipe.target_l0 or mean_l0(base, base_rows)
    if way == "scratch":
        return Plan(shortened(recipe, config, l0))
    if way == "finetuned":
        return Plan(_settled(shortened(recipe, config, l0), coefficient), base)
    n, more = max(1, round(config.extra_share * base.cfg.d_sae)), config.extra_share * l0
    rows = shards.sample(max(SAMPLE, 2 * n), recipe.seed)
    longer = _settled(shortened(recipe, config, mean_l0(base, rows[:SAMPLE]) + more), coefficient)
    options = dict(longer.architecture_options)
    if "matryoshka_widths" in options:
        options["matryoshka_widths"] = [*options["matryoshka_widths"], base.cfg.d_sae, base.cfg.d_sae + n]
        options["matryoshka_widths"] = sorted(set(options["matryoshka_widths"]))
    longer = dataclasses.replace(longer, d_sae=base.cfg.d_sae + n, architecture_options=options, resample_every=0)
    changes = {"k": options["k"]} if hasattr(base.cfg, "k") else {}
    return Plan(longer, widen(base, rows, n, more / n, recipe.seed, **changes), base.cfg.d_sae)


def check_architecture(architecture: str) -> None:
    """Refuse what has no encoder to go on training.

    Raises:
        InputError: naming the architecture.
    """
    if architecture == "matching_pursuit" or not (architecture in ARCHITECTURES or "." in architecture):
        known = sorted(set(ARCHITECTURES) - {"matching_pursuit"})
        raise InputError(
            f"an SAE of architecture {architecture!r} cannot be adapted; set transfer.adapt to null, or use one of: "
            f"{', '.join(known)}."
        )


def recipe_of(sae: SAE[Any], config: Adapt) -> Recipe:
    """The recipe of a pretrained SAE, as far as its cfg tells; the other settings are SAELens' defaults.

    Raises:
        InputError: its architecture or its normalisation of activations is none that can be trained here.
    """
    about, told = sae.cfg.metadata, sae.cfg.to_dict()
    details = getattr(about, "training_architecture_details", None) or {}
    architecture = getattr(about, "training_architecture", None) or sae.cfg.architecture()
    check_architecture(architecture)
    if told["normalize_activations"] not in CHOICES["normalize_activations"]:
        found = told["normalize_activations"]
        raise InputError(
            f"an SAE with normalize_activations {found!r} cannot be adapted; set transfer.adapt to null, or "
            + did_you_mean(found, CHOICES["normalize_activations"])
        )
    known = ARCHITECTURES.get(architecture, {})
    options = {key: value for key, value in {**told, **details}.items() if key in known and value is not None}
    steps = -(-config.n_tokens // config.batch_size)
    return Recipe(
        architecture, sae.cfg.d_sae, config.n_tokens, config.batch_size, lr_decay_steps=steps // 2,
        dead_after_tokens=max(1, config.n_tokens // 4), architecture_options=options,
    )  # fmt: skip


def shortened(recipe: Recipe, config: Adapt, l0: float) -> Recipe:
    """`recipe` for `config`'s tokens, its schedules in proportion, with an L0 of `l0` where a setting decides it."""
    ratio = config.n_tokens / recipe.training_tokens * recipe.batch_size / config.batch_size
    options, known = dict(recipe.architecture_options), ARCHITECTURES.get(recipe.architecture, {})
    target = recipe.target_l0
    if "k" in known or "k" in options:
        options["k"] = min(round(l0), recipe.d_sae)
    elif options.get("jumprelu_sparsity_loss_mode") == "quadratic":
        options["target_l0"] = l0
    elif COEFFICIENTS.keys() & known.keys():
        target = l0
    for name in COEFFICIENTS.values():
        if name in options:
            options[name] = round(options[name] * ratio)
    return dataclasses.replace(
        recipe,
        training_tokens=config.n_tokens,
        batch_size=config.batch_size,
        lr=config.lr or recipe.lr,
        lr_warm_up_steps=round(recipe.lr_warm_up_steps * ratio),
        lr_decay_steps=round(recipe.lr_decay_steps * ratio),
        dead_after_tokens=max(1, min(recipe.dead_after_tokens, config.n_tokens // 4)),
        target_l0=target,
        seeds=1,
        architecture_options=options,
    )


def _settled(recipe: Recipe, coefficient: float | None) -> Recipe:
    """`recipe` for an SAE that is trained already: the sparsity loss has its last `coefficient` from the first step."""
    options = {key: value for key, value in recipe.architecture_options.items() if key not in COEFFICIENTS.values()}
    for name in COEFFICIENTS.keys() & ARCHITECTURES.get(recipe.architecture, {}).keys():
        if coefficient:
            options[name] = coefficient
    return dataclasses.replace(recipe, architecture_options=options)


@torch.no_grad()
def mean_l0(sae: SAE[Any], rows: Tensor) -> float:
    """Mean number of latents that fire on (n, d_in) rows."""
    counts = [(sae.encode(part.to(sae.device)) != 0).sum(dim=-1) for part in torch.split(rows, CHUNK)]
    return float(torch.cat(counts).float().mean())


@torch.no_grad()
def widen(base: SAE[Any], rows: Tensor, n: int, rate: float, seed: int, **changes: Any) -> SAE[Any]:
    """`base` with `n` latents more, along what it leaves over of rows (m, d_in), drawn by squared error.

    Their norms are the base SAE's mean, their biases such that each fires on a share `rate` of the rows (but for TopK,
    where latents compete), so that the curve begins near the base SAE. `changes` go into the configuration.
    """
    rows = rows.to(base.device)
    rest = torch.cat([part - base.decode(base.encode(part)) for part in torch.split(rows, CHUNK)])
    loss = rest.square().sum(dim=-1).double().cpu()
    chosen = torch.multinomial(loss, n, replacement=n > len(rows), generator=generator(seed, n))
    wide = widened(base, torch.nn.functional.normalize(rest[chosen.to(rest.device)], dim=-1), **changes)
    pre = wide.process_sae_in(rows[:SAMPLE]) @ wide.W_enc[:, base.cfg.d_sae :]
    bound = pre.topk(max(1, round(rate * len(pre))), dim=0).values[-1]
    weights = dict(wide.named_parameters())
    if "threshold" in weights:
        bound = bound - weights["threshold"][base.cfg.d_sae :]
    weights["b_gate" if "b_gate" in weights else "b_enc"][base.cfg.d_sae :] = -bound
    return wide
