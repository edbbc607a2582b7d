"""stream: with `harvest.store: none`, tokens + every recipe -> artifacts/streamed, the SAEs trained in one go.

Each forward pass serves all of them, and no activation is stored; `train` and `baseline` take theirs from here. An
empty folder where activations are on disk.
"""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Any

from pipeline import identity, paths
from pipeline.baseline import frozen
from pipeline.params import Params, run
from pipeline.train import COMPARED, TOLD, device, metadata, save, scale, told
from pipeline.workers import spread
from sae_tools.common.settings import Recipe


def main(params: Params) -> None:
    from sae_tools.common.artifacts import new_folder

    recipes = wanted(params)
    if not recipes:
        with new_folder(paths.STREAMED):
            return
    if params.language_model.device_map is None:  # else one process has all GPUs
        spread(params.language_model.device, lambda n: all(recipe.fits(n) for recipe in recipes.values()))
    from sae_tools.common import distributed

    with distributed.group():
        _train(params, recipes)


def wanted(params: Params) -> dict[str, Recipe]:
    """The recipes to train here, by their place in artifacts/streamed."""
    if params.harvest.store == "disk":
        return {}
    recipes = {name: recipe for name, recipe in params.saes.items() if isinstance(recipe, Recipe)}
    found = {f"saes/{name}": recipe for name, recipe in recipes.items()}
    if params.evaluate.baseline:
        found |= {f"baselines/{name}": frozen(recipe) for name, recipe in recipes.items()}
    return found


def _train(params: Params, recipes: dict[str, Recipe]) -> None:
    from sae_tools.activations.shards import Shards
    from sae_tools.activations.stream import Stream
    from sae_tools.common import distributed
    from sae_tools.common.artifacts import new_folder, workspace, write_json
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base
    from sae_tools.models.positions import Positions
    from sae_tools.training.run import Run
    from sae_tools.training.train import train_together
    from sae_tools.verify import check

    check(paths.TOKENS)
    check(paths.ACTIVATIONS)
    lm = load_base(params.language_model)
    tokens, site, sample = Tokens.load(paths.TOKENS), lm.site(params.site), Shards(paths.ACTIVATIONS / params.site)
    mask = Positions(params.dataset, tokens, lm.is_text)
    first = distributed.rank() == 0
    with workspace(paths.STREAMED, _identity(params, recipes), exclusive=first) as folder:
        stream = Stream(lm, tokens.train, mask, site, params.harvest, folder / "shards")
        runs = {
            place: Run(
                stream.d_in, recipe, metadata(params), device(params), scale(recipe, sample), folder / "runs" / place
            )
            for place, recipe in recipes.items()
        }
        train_together(list(runs.values()), stream.shards)
        with new_folder(paths.STREAMED) if first else nullcontext() as new:
            for place, run in runs.items():
                result = run.finished()  # of a divided SAE by all processes
                if new is not None:
                    save(result, new / place)
                    if place.startswith("saes/"):
                        rows = sample.sample(COMPARED, run.recipe.seed)
                        write_json(new / place / TOLD, told(result, rows))


def _identity(params: Params, recipes: dict[str, Recipe]) -> dict[str, Any]:
    return {
        "recipes": {place: dataclasses.asdict(recipe) for place, recipe in recipes.items()},
        "model": dataclasses.asdict(params.language_model),
        "files": identity.of_model(params.language_model.base),
        "dataset": dataclasses.asdict(params.dataset),
        "tokens": identity.of_folder(paths.TOKENS),
        "site": params.site,
        "harvest": dataclasses.asdict(params.harvest),
        "versions": identity.versions(),
    }


if __name__ == "__main__":
    run(main, named=False)
