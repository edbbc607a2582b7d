"""train: artifacts/activations + a recipe -> artifacts/saes/<name>, a folder that SAELens opens, its curve and end.

An SAE given as `release` is not trained but fetched into the same place, and one that `stream` has trained is taken
from there. Under torchrun the processes share each batch, or divide the latents.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params, run
from pipeline.workers import spread
from sae_tools.common.settings import Pretrained, Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from sae_tools.activations.shards import Shards
    from sae_tools.training.run import Trained

logger = logging.getLogger("sae_tools.pipeline")
SAMPLE = 65_536
"""Rows from which the mean norm is taken."""
COMPARED = 8_192
"""Rows on which a saved SAE is compared with the one in memory."""
TOLD = "training.json"
"""Beside an SAE that `stream` has trained."""
LATENTS = 2**28
"""Activations of latents at a time in that: 1 GB."""
COLUMNS = ["step", "tokens", "loss", "explained_variance", "l0", "dead_share", "coefficient", "tokens_per_second"]


def main(params: Params, name: str) -> None:
    recipe = params.saes[name]
    if not isinstance(recipe, Recipe):
        fetch(params, name, recipe)
    elif paths.streamed(name).is_dir():
        take(params, name, recipe)
    else:
        train_into(paths.sae(name), params, recipe, lambda result, rows: write(params, name, result, rows))


def train_into(target: Path, params: Params, recipe: Recipe, write: Callable[[Trained, Tensor], None]) -> None:
    """Train, with a scratch folder beside `target`; `write` gets the result and a sample of rows, in one process."""
    spread(params.language_model.device, recipe.fits)
    from sae_tools.activations.shards import Shards
    from sae_tools.common import distributed
    from sae_tools.common.artifacts import sha256, workspace
    from sae_tools.verify import check

    with distributed.group():
        check(paths.ACTIVATIONS)
        shards = Shards(paths.ACTIVATIONS / params.site)
        identity = {
            "recipe": dataclasses.asdict(recipe),
            "site": params.site,
            "activations": sha256(paths.ACTIVATIONS / "manifest.json"),
        }
        with workspace(target, identity, exclusive=distributed.rank() == 0) as folder:
            result = learn(params, recipe, shards, folder)
            if distributed.rank() == 0:
                write(result, shards.sample(COMPARED, recipe.seed))


def learn(params: Params, recipe: Recipe, shards: Shards, folder: Any) -> Trained:
    """Train with checkpoints in `folder`."""
    from sae_tools.training.train import train

    return train(
        lambda first: shards.batches(recipe.batch_size, recipe.training_tokens, recipe.seed, first),
        shards.d_in,
        recipe,
        metadata(params),
        device(params),
        scale(recipe, shards),
        folder,
    )


def device(params: Params) -> str:
    from sae_tools.models.lm import pick_device

    return str(pick_device(params.language_model.device))


def scale(recipe: Recipe, shards: Shards) -> float:
    """What rows are multiplied by while an SAE of this recipe trains."""
    from sae_tools.training.train import norm_scale

    normalise = recipe.architecture_options.get("normalize_activations") == "expected_average_only_in"
    return norm_scale(shards.sample(SAMPLE, recipe.seed)) if normalise else 1.0


def write(params: Params, name: str, result: Trained, rows: Tensor) -> None:
    """The SAE, with those of further seeds in folders of their own; the curve; its end and how far seeds agree."""
    from sae_tools.common.artifacts import new_folder
    from sae_tools.common.faults import reach

    reach("before-save")
    with new_folder(paths.sae(name), about(params, name)) as folder:
        save(result, folder)
    tell(name, told(result, rows), rows)


def take(params: Params, name: str, recipe: Recipe) -> None:
    """As `write`, of what `stream` has trained."""
    from sae_tools.activations.shards import Shards
    from sae_tools.common.artifacts import new_folder
    from sae_tools.verify import check

    check(paths.STREAMED)
    check(paths.ACTIVATIONS)
    source = paths.streamed(name)
    with new_folder(paths.sae(name), about(params, name)) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(TOLD))
    rows = Shards(paths.ACTIVATIONS / params.site).sample(COMPARED, recipe.seed)
    tell(name, json.loads((source / TOLD).read_text()), rows)


def save(result: Trained, folder: Path) -> None:
    """The SAE's files, those of further seeds in folders of their own."""
    from sae_tools import saes

    for i, sae in enumerate(result.saes):
        saes.save(sae, folder / f"seed-{i}" if i else folder)


def told(result: Trained, rows: Tensor) -> dict[str, Any]:
    """What is told of a run: its curve, its end, and explained variance and L0 of the SAE on (n, d_in) rows."""
    from sae_tools.metrics.dictionary import agreement

    last: dict[str, Any] = {key: result.curve[-1][key] for key in COLUMNS[1:-1]}
    if len(result.saes) > 1:
        last["seeds"] = agreement([sae.W_dec for sae in result.saes], result.live)
    return {"curve": result.curve, "last": last, "quality": quality(result.sae.eval(), rows)}


def tell(name: str, told: dict[str, Any], rows: Tensor) -> None:
    """Write the curve and the metrics, and compare the SAE as it can be read with the one that was trained."""
    import pandas as pd

    from sae_tools import saes
    from sae_tools.common.artifacts import write_json

    ev, l0 = told["quality"]
    compare(name, quality(saes.load(paths.sae(name)), rows), (ev, l0))
    write_json(paths.metrics("train", name), told["last"])
    write_curve(name, pd.DataFrame(told["curve"], columns=COLUMNS))


def about(params: Params, name: str) -> dict[str, Any]:
    return {"sae": name, "site": params.site, "recipe": settings(params, name)}


def fetch(params: Params, name: str, source: Pretrained) -> None:
    """Take a pretrained SAE."""
    import pandas as pd

    from sae_tools import saes
    from sae_tools.activations.shards import Shards
    from sae_tools.common.artifacts import new_folder, write_json
    from sae_tools.verify import check

    check(paths.ACTIVATIONS)
    shards = Shards(paths.ACTIVATIONS / params.site)
    sae = saes.as_trained(saes.load(source.release, source.sae_id))
    saes.check_width(sae, shards.d_in, f"saes.{name}", params.site)
    with new_folder(paths.sae(name), {"sae": name, "site": params.site, "recipe": {}}) as folder:
        saes.save(sae, folder)
    compare(name, quality(saes.load(paths.sae(name)), shards.sample(COMPARED, 0)))
    write_json(paths.metrics("train", name), {})
    write_curve(name, pd.DataFrame(columns=COLUMNS))


def quality(sae: Any, rows: Tensor) -> tuple[float, float]:
    """Explained variance and L0 of an SAE on (n, d_in) rows."""
    import torch

    from sae_tools.metrics.reconstruction import explained_variance

    rebuilt, l0 = [], []
    with torch.no_grad():
        rows = rows.to(sae.W_dec.device)
        for part in torch.split(rows, max(1, LATENTS // sae.cfg.d_sae)):
            features = sae.encode(part)
            rebuilt.append(sae.decode(features))
            l0.append((features != 0).float().sum(dim=-1))
    return explained_variance(rows, torch.cat(rebuilt)), float(torch.cat(l0).mean())


def compare(name: str, found: tuple[float, float], trained: tuple[float, float] | None = None) -> None:
    """Say what the SAE on disk does on the rows at hand, and warn where it is not what it should be."""
    ev, l0 = found
    if trained is not None and (abs(ev - trained[0]) > 0.02 or abs(l0 - trained[1]) > 0.1 * trained[1]):
        logger.warning(
            "saes.%s was trained to explained variance %.3f and L0 %.1f, but read back from its folder it has %.3f and "
            "%.1f: it is not the SAE that was trained",
            name, *trained, ev, l0,
        )  # fmt: skip
    elif ev <= 0:
        logger.warning(
            "saes.%s rebuilds these activations worse than their mean does (explained variance %.2f, L0 %.1f). Likely "
            "causes: another site or layer than it was trained on (off by one?), a missing begin token, a scaling of "
            "activations that was not folded, a threshold that was lost",
            name, ev, l0,
        )  # fmt: skip
    else:
        logger.info("saes.%s, read back from its folder: explained variance %.3f, L0 %.1f", name, ev, l0)


def settings(params: Params, name: str) -> dict[str, Any]:
    """The recipe as it stands in params.yaml."""
    found = dataclasses.asdict(params.saes[name])
    options: dict[str, Any] = found.pop("architecture_options")
    return found | options


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
