"""adapt: SAE + the finetuned model's activations -> artifacts/adapted/<name>: the SAE repaired in three ways.

A SAELens folder for each way (and `own`, the finetuned model's own SAE by the whole recipe, where `transfer.own` is
true), what it gained token by token (curve.parquet), and all figures of each in the finetuned model on its own text
(figures.json). An empty folder, in no time, unless there is a finetuned model and `transfer.adapt` or `own`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.identity import of_folder
from pipeline.params import Params, run
from pipeline.train import metadata
from sae_tools.common.settings import Adapt, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from sae_tools.activations.shards import Shards
    from sae_tools.models.lm import LanguageModel
    from sae_tools.models.sites import Site
    from sae_tools.saes import SAE
    from sae_tools.training.adapt import Adapted, Plan

    Evaluation = Callable[[SAE[Any]], dict[str, float]]

KEYS = ("explained_variance", "l0", "ce_loss_score")
"""What a point of the curve has."""
CURVE_TOKENS = 2_048
"""Of the finetuned model's own text, for a point of the curve; of the base model's where there is no other."""
ROWS = 8_192
"""The base model's activations on which the SAE's L0 is measured, where no setting tells it."""


def main(params: Params, name: str) -> None:
    from sae_tools.common.artifacts import new_folder, workspace
    from sae_tools.verify import check

    config, target = params.transfer.adapt, paths.adapted(name)
    if params.language_model.finetuned is None or (config is None and params.transfer.own is not True):
        with new_folder(target):
            return
    check(paths.PAIR)
    check(paths.TOKENS)
    check(paths.sae(name))
    identity = {
        "models": dataclasses.asdict(params.language_model),
        "transfer": dataclasses.asdict(params.transfer),
        "tokens": of_folder(paths.TOKENS),
        "sae": of_folder(paths.sae(name)),
        "recipe": dataclasses.asdict(params.saes[name]),
        "pair": of_folder(paths.PAIR),
        "site": params.site,
    }
    with workspace(target, identity) as folder:
        write(params, name, *_adapt(params, name, folder))


def _adapt(params: Params, name: str, folder: Path) -> tuple[dict[str, Adapted], dict[str, Any]]:
    """The repaired SAEs by way, with checkpoints in `folder`, and the figures of each and of the SAE as it was."""
    from sae_tools import saes
    from sae_tools.activations.shards import Shards
    from sae_tools.models.lm import load_finetuned
    from sae_tools.training.adapt import adapt

    models, transfer = params.language_model, params.transfer
    assert models.finetuned is not None
    lm = load_finetuned(models)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    shards, text, ids = Shards(paths.PAIR / "finetuned" / params.site), *held_out(params, lm)
    site, size = lm.site(params.site), transfer.batch_size
    few = _evaluation(lm, site, ids[: max(1, CURVE_TOKENS // ids.shape[1])], size)
    found: dict[str, Adapted] = {}
    for way, how in plans(params, name, sae, shards).items():
        (folder / way).mkdir(exist_ok=True)
        found[way] = adapt(
            sae, how, shards, metadata(params), str(lm.device),
            lambda one: chosen(few(one)), folder / way,
        )  # fmt: skip
    evaluation = _evaluation(lm, site, ids, size)
    return found, {way: {text: evaluation(adapted.sae)} for way, adapted in found.items()}


def plans(params: Params, name: str, sae: SAE[Any], shards: Shards) -> dict[str, Plan]:
    """What is trained, by the name of its folder."""
    from sae_tools.activations.shards import Shards
    from sae_tools.training.adapt import WAYS, Plan, plan, recipe_of

    config, recipe = params.transfer.adapt, params.saes[name]
    if not isinstance(recipe, Recipe):
        recipe = recipe_of(sae, config or Adapt())
    rows = Shards(paths.PAIR / "base" / params.site).sample(ROWS, recipe.seed)
    found: dict[str, Plan] = {}
    if config:
        found |= {way: plan(way, sae, recipe, rows, shards, config, last_coefficient(name)) for way in WAYS}
    if params.transfer.own is True:
        found["own"] = Plan(dataclasses.replace(recipe, seeds=1))
    return found


def chosen(metrics: dict[str, float]) -> dict[str, float]:
    return {key: metrics[key] for key in KEYS}


def held_out(params: Params, lm: LanguageModel) -> tuple[str, Tensor]:
    """The text of the transfer study by which the SAE is judged, its name and (n_blocks, context) ids."""
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.loading import load_config
    from sae_tools.models.pair import own_tokens

    config, models = params.transfer, params.language_model
    if config.dataset is None:
        return "base_text", Tokens.load(paths.TOKENS).first_held_out(config.n_tokens)
    d_vocab = load_config(models.base, models.revision).get_text_config().vocab_size
    own = own_tokens(dataclasses.replace(config.dataset, n_tokens=0), lm.tokenizer, lm.name, d_vocab)
    return "finetuned_text", own.first_held_out(config.n_tokens)


def _evaluation(lm: LanguageModel, site: Site, ids: Tensor, batch_size: int) -> Evaluation:
    """What gives the metrics of an SAE on (n_blocks, context) ids; the mean activation is taken once."""
    from sae_tools.analysis.evaluate import Evaluator
    from sae_tools.analysis.predictions import mean_activation

    mean = mean_activation(lm, site, ids, batch_size)

    def metrics(sae: SAE[Any]) -> dict[str, float]:
        return Evaluator(sae, lm, site, mean).add_all(ids, batch_size).result().metrics

    return metrics


def last_coefficient(name: str) -> float | None:
    """That of the sparsity loss at the end of the SAE's training; None where there was none."""
    found: float | None = json.loads(paths.metrics("train", name).read_text()).get("coefficient")
    return found or None


def write(params: Params, name: str, found: dict[str, Adapted], figures: dict[str, Any]) -> None:
    """The SAEs, each in a folder of its way's name; the curve; the figures, and to what L0 each was trained."""
    import pandas as pd

    from sae_tools import saes
    from sae_tools.common.artifacts import new_folder, write_json

    curve = [{"way": way, **row} for way, adapted in found.items() for row in adapted.watched]
    for way, adapted in found.items():
        figures[way]["training"] = {
            "d_sae": adapted.sae.cfg.d_sae,
            "k": adapted.recipe.architecture_options.get("k"),
            "target_l0": adapted.recipe.target_l0,
            "coefficient": adapted.coefficient,
        }
    if params.transfer.adapt:
        more = figures["extended"]["training"]["d_sae"] - figures["finetuned"]["training"]["d_sae"]
        figures |= {"n_tokens": params.transfer.adapt.n_tokens, "extra_latents": more}
    with new_folder(paths.adapted(name), {"sae": name, "site": params.site}) as folder:
        for way, adapted in found.items():
            saes.save(adapted.sae, folder / way)
        pd.DataFrame(curve).to_parquet(folder / "curve.parquet")
        write_json(folder / "figures.json", figures)


if __name__ == "__main__":
    run(main)
