"""features: SAE + base model + tokens -> artifacts/features/<name>, the tables that the page shows.

Under torchrun the processes share the passes over text and features; the first makes the tables and writes them.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import paths
from pipeline.params import Params, labels_of, run
from pipeline.workers import spread


def main(params: Params, name: str) -> None:
    if params.language_model.device_map is None:  # else one process has all GPUs
        spread(params.language_model.device)
    from sae_tools.common import distributed

    with distributed.group():
        _features(params, name)


def _features(params: Params, name: str) -> None:
    from sae_tools import saes
    from sae_tools.analysis.imported import read_labels
    from sae_tools.analysis.tables import make_tables
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base
    from sae_tools.verify import check

    models, config = params.language_model, params.features
    check(paths.TOKENS)
    check(paths.sae(name))
    lm = load_base(models)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    imported = read_labels(Path(labels_of(config, name)), sae.cfg.d_sae) if config.labels else {}
    tokens = Tokens.load(paths.TOKENS)
    make_tables(
        sae, lm, lm.site(params.site), tokens, config, paths.features(name), about(params, name), imported
    )  # fmt: skip


def about(params: Params, name: str) -> dict[str, object]:
    """What the page needs to know to load the models that the features belong to."""
    models = params.language_model
    finetuned = {"name": models.finetuned, "revision": models.finetuned_revision} if models.finetuned else None
    return {
        "sae": name,
        "site": params.site,
        "base": {"name": models.base, "revision": models.revision},
        "finetuned": finetuned,
        "dtype": models.dtype,
        "context_size": params.dataset.context_size,
    }


if __name__ == "__main__":
    run(main)
