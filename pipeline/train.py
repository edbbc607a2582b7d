"""train: artifacts/activations + a recipe -> artifacts/saes/<name>, a folder that SAELens opens, and its curve.

An SAE given as `release` is not trained but fetched into the same place.
"""

from __future__ import annotations

from pipeline import paths
from pipeline.params import Params, run
from sae_tools.settings import Pretrained


def main(params: Params, name: str) -> None:
    import pandas as pd

    from sae_tools import saes
    from sae_tools.artifacts import new_folder, verify
    from sae_tools.lm import pick_device
    from sae_tools.shards import Shards
    from sae_tools.train import norm_scale, train

    recipe = params.saes[name]
    curve = pd.DataFrame(columns=["step", "tokens", "loss", "explained_variance", "l0", "dead_share"])
    verify(paths.ACTIVATIONS)
    shards = Shards(paths.ACTIVATIONS / params.site)
    sae: saes.SAE
    if isinstance(recipe, Pretrained):
        sae = saes.load(recipe.release, recipe.sae_id)
        saes.check_width(sae, shards.d_in, f"saes.{name}", params.site)
    else:
        normalise = recipe.architecture_options.get("normalize_activations") == "expected_average_only_in"
        trained = train(
            shards.batches(recipe.batch_size, recipe.training_tokens, recipe.seed),
            shards.d_in,
            recipe,
            metadata(params),
            str(pick_device(params.language_model.device)),
            norm_scale(shards.sample(65_536, recipe.seed)) if normalise else 1.0,
        )
        sae, curve = trained.sae, pd.DataFrame(trained.curve)
    with new_folder(paths.sae(name), {"sae": name, "site": params.site}) as folder:
        saes.save(sae, folder)
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
