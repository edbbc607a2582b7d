"""diff: artifacts/pair -> artifacts/crosscoder: one dictionary over both models, what is measured of it, its halves.

An empty folder, in no time, without a finetuned model or `transfer.diff`.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.identity import of_folder
from pipeline.params import Params, run
from pipeline.train import metadata
from sae_tools.common.settings import Diff, Features

if TYPE_CHECKING:
    from sae_tools.analysis.difference import Difference
    from sae_tools.training.crosscoder import Crosscoder

SHOWN = Features(n_top=10, n_per_band=0, window=12)
"""What an example is like."""


def main(params: Params) -> None:
    from sae_tools.common.artifacts import new_folder, workspace
    from sae_tools.verify import check

    config = params.transfer.diff
    if params.language_model.finetuned is None or config is None:
        with new_folder(paths.CROSSCODER):
            return
    check(paths.PAIR)
    identity = {
        "diff": dataclasses.asdict(config),
        "site": params.site,
        "pair": of_folder(paths.PAIR),
    }
    with workspace(paths.CROSSCODER, identity) as folder:
        crosscoder = learn(params, config, folder)
        write(params, crosscoder, measure(params, config, crosscoder))


def learn(params: Params, config: Diff, folder: Any) -> Crosscoder:
    """Train with checkpoints in `folder`."""
    from sae_tools.activations.shards import Shards
    from sae_tools.models.lm import pick_device
    from sae_tools.training.crosscoder import train_crosscoder
    from sae_tools.training.pairs import Pairs

    models = params.language_model
    base, finetuned = (Shards(paths.PAIR / name / params.site) for name in ("base", "finetuned"))
    about = metadata(params)
    own = {"model_name": models.finetuned, "model_revision": models.finetuned_revision}
    parts = {
        "joint": about | {"finetuned_model_name": models.finetuned},
        "base": about,
        "finetuned": about | own,
    }
    device = str(pick_device(models.device))
    return train_crosscoder(Pairs(base, finetuned, config.seed), config, parts, device, folder)


def measure(params: Params, config: Diff, crosscoder: Crosscoder) -> Difference:
    """What the crosscoder's latents are, on held-out tokens."""
    import torch

    from sae_tools.analysis.difference import Parts, difference
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base, load_finetuned

    models = params.language_model
    base = load_base(models)
    finetuned = load_finetuned(models)
    blocks = Tokens.load(paths.PAIR / "tokens").held_out
    n_blocks = min(len(blocks), max(1, config.n_tokens // blocks.shape[1]))
    # From all over: the two models' texts may lie one after the other.
    ids = blocks[torch.linspace(0, len(blocks) - 1, n_blocks).long()]
    parts = Parts(crosscoder.joint, (crosscoder.base, crosscoder.finetuned), crosscoder.scales)
    site = base.site(params.site)
    return difference(parts, (base, finetuned), site, ids, params.transfer.batch_size, config.n_examples, SHOWN)


def write(params: Params, crosscoder: Crosscoder, found: Difference) -> None:
    """The crosscoder and its halves, the table of latents, examples, figures."""
    from sae_tools import saes
    from sae_tools.common.artifacts import new_folder, write_json
    from sae_tools.common.faults import reach

    reach("before-save")
    with new_folder(paths.CROSSCODER, {"site": params.site, "scales": list(crosscoder.scales)}) as folder:
        saes.save(crosscoder.joint, folder / "crosscoder")
        saes.save(crosscoder.base, folder / "base")
        saes.save(crosscoder.finetuned, folder / "finetuned")
        found.latents.to_parquet(folder / "latents.parquet", compression="zstd")
        found.examples.to_parquet(folder / "examples.parquet", compression="zstd")
        # Its clock would differ from run to run.
        curve = [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in crosscoder.curve]
        write_json(folder / "figures.json", found.figures | {"curve": curve})


if __name__ == "__main__":
    run(main, named=False)
