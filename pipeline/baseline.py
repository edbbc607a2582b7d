"""baseline: the recipe with its decoder frozen at the random start -> artifacts/baselines/<name>, what chance gives.

An empty folder, in no time, unless `evaluate.baseline` asks for it; a pretrained SAE has no recipe, so no baseline.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from pipeline import paths
from pipeline.params import Params, run
from pipeline.train import train_into
from sae_tools.common.settings import Recipe

if TYPE_CHECKING:
    from torch import Tensor

    from sae_tools.training.train import Trained


def main(params: Params, name: str) -> None:
    from sae_tools.common.artifacts import new_folder

    recipe, target = params.saes[name], paths.baseline(name)
    if not params.evaluate.baseline or not isinstance(recipe, Recipe):
        with new_folder(target):
            return
    frozen = dataclasses.replace(recipe, frozen_decoder=True, resample_every=0, seeds=1)

    def write(result: Trained, _: Tensor) -> None:
        from sae_tools import saes

        with new_folder(target, {"sae": name, "frozen_decoder": True}) as folder:
            saes.save(result.sae, folder)

    train_into(target, params, frozen, write)


if __name__ == "__main__":
    run(main)
