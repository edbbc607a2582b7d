"""train: artifacts/activations + a recipe -> artifacts/saes/<name>, a folder that SAELens opens, its curve and end.

An SAE given as `release` is not trained but fetched into the same place. Under torchrun the processes share each batch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params, run
from pipeline.workers import spread
from sae_tools.common.settings import Pretrained, Recipe

if TYPE_CHECKING:
    from sae_tools.activations.shards import Shards
    from sae_tools.training.train import Trained

SAMPLE = 65_536
"""Rows from which the mean norm is taken."""
COLUMNS = ["step", "tokens", "loss", "explained_variance", "l0", "dead_share", "tokens_per_second"]


def main(params: Params, name: str) -> None:
    recipe = params.saes[name]
    if isinstance(recipe, Recipe):
        spread(params.language_model.device, recipe.batch_size)
    from sae_tools.activations.shards import Shards
    from sae_tools.common import distributed
    from sae_tools.common.artifacts import sha256, workspace
    from sae_tools.verify import check

    with distributed.group():
        check(paths.ACTIVATIONS)
        shards = Shards(paths.ACTIVATIONS / params.site)
        if isinstance(recipe, Pretrained):
            fetch(params, name, recipe, shards)
            return
        identity = {
            "recipe": dataclasses.asdict(recipe),
            "site": params.site,
            "activations": sha256(paths.ACTIVATIONS / "manifest.json"),
        }
        with workspace(paths.sae(name), identity, exclusive=distributed.rank() == 0) as folder:
            result = learn(params, recipe, shards, folder)
            if distributed.rank() == 0:
                write(params, name, result)


def learn(params: Params, recipe: Recipe, shards: Shards, folder: Any) -> Trained:
    """Train with checkpoints in `folder`."""
    from sae_tools.models.lm import pick_device
    from sae_tools.training.train import norm_scale, train

    normalise = recipe.architecture_options.get("normalize_activations") == "expected_average_only_in"
    return train(
        lambda first: shards.batches(recipe.batch_size, recipe.training_tokens, recipe.seed, first),
        shards.d_in,
        recipe,
        metadata(params),
        str(pick_device(params.language_model.device)),
        norm_scale(shards.sample(SAMPLE, recipe.seed)) if normalise else 1.0,
        folder,
    )


def write(params: Params, name: str, result: Trained) -> None:
    """The SAE, with those of further seeds in folders of their own; the curve; its end and how far seeds agree."""
    import pandas as pd

    from sae_tools import saes
    from sae_tools.common.artifacts import new_folder, write_json
    from sae_tools.common.faults import reach
    from sae_tools.metrics import agreement

    reach("before-save")
    with new_folder(paths.sae(name), {"sae": name, "site": params.site}) as folder:
        for i, sae in enumerate(result.saes):
            saes.save(sae, folder / f"seed-{i}" if i else folder)
    last: dict[str, Any] = {key: result.curve[-1][key] for key in COLUMNS[1:-1]}
    if len(result.saes) > 1:
        last["seeds"] = agreement([sae.W_dec for sae in result.saes], result.live)
    write_json(paths.metrics("train", name), last)
    write_curve(name, pd.DataFrame(result.curve, columns=COLUMNS))


def fetch(params: Params, name: str, source: Pretrained, shards: Shards) -> None:
    """Take a pretrained SAE."""
    import pandas as pd

    from sae_tools import saes
    from sae_tools.common.artifacts import new_folder, write_json

    sae = saes.load(source.release, source.sae_id)
    saes.check_width(sae, shards.d_in, f"saes.{name}", params.site)
    with new_folder(paths.sae(name), {"sae": name, "site": params.site}) as folder:
        saes.save(sae, folder)
    write_json(paths.metrics("train", name), {})
    write_curve(name, pd.DataFrame(columns=COLUMNS))


def write_curve(name: str, curve: Any) -> None:
    paths.plot("train", name).parent.mkdir(parents=True, exist_ok=True)
    curve.to_csv(paths.plot("train", name), sep="\t", index=False, float_format="%.6g")


def metadata(params: Params) -> dict[str, object]:
    """What SAELens' cfg.json says of the SAE's origin, by its names where it has one."""
    models, dataset = params.language_model, params.dataset
    return {
        "model_name": models.base,
        "model_revision": models.revision,
        "hook_name": params.site,
        "context_size": dataset.context_size,
        "prepend_bos": True,
        "exclude_special_tokens": True,
        "dataset_path": dataset.path,
        "dataset_revision": dataset.revision,
        "dataset_split": dataset.split,
    }


if __name__ == "__main__":
    run(main)
