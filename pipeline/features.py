"""features: SAE + base model + tokens -> artifacts/features/<name>, the tables that the page shows."""

from __future__ import annotations

from pathlib import Path

from pipeline import paths
from pipeline.params import Params, labels_of, run


def main(params: Params, name: str) -> None:
    from sae_tools import saes
    from sae_tools.analysis import store
    from sae_tools.analysis.features import describe
    from sae_tools.analysis.imported import read_labels
    from sae_tools.common.artifacts import new_folder
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import LanguageModel
    from sae_tools.verify import check

    models, config = params.language_model, params.features
    check(paths.TOKENS)
    check(paths.sae(name))
    lm = LanguageModel.load(models.base, models.revision, models.dtype, models.device)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    tokens = Tokens.load(paths.TOKENS)
    ids, held_out = tokens.first_train(config.n_tokens), tokens.first_held_out(config.n_held_out)
    imported = read_labels(Path(labels_of(config, name)), sae.cfg.d_sae) if config.labels else {}
    table, examples = describe(sae, lm, lm.site(params.site), ids, config, held_out=held_out, imported=imported)
    with new_folder(paths.features(name), about(params, name, ids.numel(), sae.cfg.d_sae)) as folder:
        store.write(folder, table, examples)


def about(params: Params, name: str, n_tokens: int, d_sae: int) -> dict[str, object]:
    """What the page needs to know to load the models that the features belong to."""
    models = params.language_model
    finetuned = {"name": models.finetuned, "revision": models.finetuned_revision} if models.finetuned else None
    return {
        "sae": name,
        "site": params.site,
        "base": {"name": models.base, "revision": models.revision},
        "finetuned": finetuned,
        "dtype": models.dtype,
        "n_tokens": n_tokens,
        "context_size": params.dataset.context_size,
        "d_sae": d_sae,
    }


if __name__ == "__main__":
    run(main)
