"""harvest: text + base model -> artifacts/tokens (train and held-out ids) and artifacts/activations (shards).

Killed in the middle, the next run goes on with the shards that are there.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pipeline import identity, paths
from pipeline.params import Params, run
from pipeline.workers import spread


def main(params: Params) -> None:
    if params.language_model.device_map is None:  # else one process has all GPUs
        spread(params.language_model.device)
    from contextlib import nullcontext

    from sae_tools.common.artifacts import lock
    from sae_tools.common.distributed import group, rank

    with group(), lock(paths.TOKENS) if rank() == 0 else nullcontext():
        _harvest(params)


def _harvest(params: Params) -> None:
    from sae_tools.activations.harvest import Mask, divided, harvest, n_bytes, summary
    from sae_tools.common.artifacts import commit, require_space, workspace
    from sae_tools.common.distributed import barrier, rank, world
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base
    from sae_tools.models.positions import Positions
    from sae_tools.models.reading import check_readable

    models = params.language_model
    if rank() == 0:
        check_readable(params.dataset)
    lm = load_base(models)
    site = lm.site(params.site)
    if rank() == 0:
        _check_finetune(params, lm)
        _tokenize(params, lm)
    barrier()
    tokens = Tokens.load(paths.TOKENS)
    ids = tokens.train
    wanted: Mask = Positions(params.dataset, tokens, lm.is_text)
    if params.harvest.store == "none":  # one shard, as a sample of what `stream` trains on
        first = divided(len(ids), ids.shape[1], params.harvest)[0]
        ids, wanted = ids[: first.stop], wanted[: first.stop]
    with workspace(paths.ACTIVATIONS, _identity(params), exclusive=rank() == 0) as folder:
        if rank() == 0:
            require_space(folder, n_bytes(lm, wanted, [site], params.harvest), "harvest")
        barrier()
        harvest(lm, ids, wanted, [site], params.harvest, folder, rank(), world())
        barrier()
        if rank() == 0:
            about, digests = summary(folder, [site])
            commit(folder, paths.ACTIVATIONS, {"model": lm.name, "site": site.name} | about, digests)
        barrier()


def _check_finetune(params: Params, lm: Any) -> None:
    """Refuse a finetune that reads other tokens before hours are spent on the base model."""
    models = params.language_model
    if models.finetuned is None:
        return
    from sae_tools.models.adapters import base_of
    from sae_tools.models.loading import adapter_folder, load_tokenizer
    from sae_tools.models.pair import check_tokenizers
    from sae_tools.models.sources import check_adapter

    if (folder := adapter_folder(models.finetuned, models.finetuned_revision)) is not None:
        check_adapter(models.base, models.finetuned, base_of(folder)[0])
    other = load_tokenizer(models.finetuned, models.finetuned_revision)
    check_tokenizers(lm.name, lm.tokenizer, models.finetuned, other, models.least_agreement)


def _tokenize(params: Params, lm: Any) -> None:
    from sae_tools.common.artifacts import new_folder, require_space
    from sae_tools.models.corpus import n_bytes, tokenize_to
    from sae_tools.models.sources import check_context

    dataset = params.dataset
    check_context(dataset, "dataset", lm.name, lm.config.to_dict())
    require_space(paths.TOKENS, n_bytes(dataset), "the text as token ids")
    about = {"dataset": dataset.path, "model": lm.name, "special_ids": lm.special_ids}
    with new_folder(paths.TOKENS, about) as folder:
        tokenize_to(folder, dataset, lm.tokenizer)


def _identity(params: Params) -> dict[str, Any]:
    return {
        "model": asdict(params.language_model),
        "files": identity.of_model(params.language_model.base),
        "dataset": asdict(params.dataset),
        "tokens": identity.of_folder(paths.TOKENS),
        "site": params.site,
        "harvest": asdict(params.harvest),
        "versions": identity.versions(),
    }


if __name__ == "__main__":
    run(main, named=False)
