"""How fast this machine is: a few seconds of the very passes and steps that a params file asks for."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache

from pipeline.params import Params
from sae_tools.common import costs
from sae_tools.common.precision import product_dtype
from sae_tools.common.settings import Recipe
from sae_tools.models.lm import load_base, pick_device


def measured(params: Params, run: costs.Run, seconds: float) -> dict[str, float]:
    """Operations a second in the model, and in SAEs, as `costs.hours` takes them; what can't be tried is left out."""
    models = params.language_model
    found: dict[str, float] = {}
    if is_here(models.base, models.revision):
        found[models.dtype] = _model(params, run.shape, seconds / 2)
    recipes = {name: recipe for name, recipe in params.saes.items() if isinstance(recipe, Recipe)}
    recipes = {name: recipe for name, recipe in recipes.items() if recipe.latent_parallel == 1}  # this is one process
    if recipes:
        name = max(recipes, key=lambda name: costs.trained(recipes[name]) * run.d_sae[name])
        found["sae"] = _sae(params, recipes[name], run.shape.d_in, seconds / 2)
    return found


def is_here(name: str, revision: str | None) -> bool:
    """Whether a model's weights need not be fetched."""
    if Path(name).is_dir():
        return True
    config = None if ":" in name else try_to_load_from_cache(name, "config.json", revision=revision)
    return isinstance(config, str) and any(Path(config).parent.glob("*.safetensors"))


def _model(params: Params, shape: costs.Shape, seconds: float) -> float:
    lm = load_base(params.language_model)
    site, batch = lm.site(params.site), params.harvest.batch_size
    ids = torch.randint(lm.d_vocab, (batch, params.dataset.context_size), generator=torch.Generator().manual_seed(0))

    def once() -> None:
        lm.activations(ids, [site])[site.name].sum().item()  # waits for a GPU

    return ids.numel() * shape.to_site * _rate(once, seconds)


def _sae(params: Params, recipe: Recipe, d_in: int, seconds: float) -> float:
    from sae_tools.training.trainee import Trainee  # with SAELens, which takes seconds to import

    device = pick_device(params.language_model.device)
    trainee = Trainee(recipe, recipe.seed, d_in, {}, str(device), product_dtype(recipe.product_dtype, device))
    rows = torch.randn(recipe.batch_size, d_in, generator=torch.Generator().manual_seed(0)).to(device)

    def once() -> None:
        trainee.step(rows, 0, 1).loss.item()  # waits for a GPU

    return recipe.batch_size * 4 * d_in * recipe.d_sae * _rate(once, seconds)


def _rate(once: Callable[[], None], seconds: float) -> float:
    """Calls a second, after one to warm up."""
    once()
    start, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds or not calls:
        once()
        calls += 1
    return calls / passed
