"""baseline: the recipe with its decoder frozen at the random start -> artifacts/baselines/<name>, what chance gives.

An empty folder, in no time, unless `evaluate.baseline` asks for it; a pretrained SAE has no recipe, so no baseline.
"""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.params import Params, run
from pipeline.train import save, train_into
from sae_tools.common.settings import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from sae_tools.training.run import Trained


def main(params: Params, name: str) -> None:
    from sae_tools.common.artifacts import new_folder

    recipe, target = params.saes[name], paths.baseline(name)
    if not params.evaluate.baseline or not isinstance(recipe, Recipe):
        with new_folder(target):
            return
    about = {"sae": name, "frozen_decoder": True}
    if paths.streamed_baseline(name).is_dir():
        with new_folder(target, about) as folder:
            shutil.copytree(paths.streamed_baseline(name), folder, dirs_exist_ok=True)
        return

    def write(result: Trained, _: Tensor) -> None:
        with new_folder(target, about) as folder:
            save(result, folder)

    train_into(target, params, frozen(recipe), write)


def frozen(recipe: Recipe) -> Recipe:
    """The recipe of what chance gives."""
    return dataclasses.replace(recipe, frozen_decoder=True, resample_every=0, seeds=1)


if __name__ == "__main__":
    run(main)
