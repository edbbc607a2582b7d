"""features: SAE + base model + tokens -> artifacts/features/<name>, the tables that the page shows."""

from __future__ import annotations

import json

from pipeline import paths
from pipeline.params import Params, run

NORM_BLOCKS = 64
"""Held-out blocks on which the site's median norm is measured."""


def main(params: Params, name: str) -> None:
    from sae_tools import saes
    from sae_tools.analysis.features import describe
    from sae_tools.analysis.firings import find_firings
    from sae_tools.analysis.gallery import gallery
    from sae_tools.analysis.norms import median_norm
    from sae_tools.analysis.scores import score
    from sae_tools.common.artifacts import new_folder
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import LanguageModel
    from sae_tools.verify import check

    models, config = params.language_model, params.features
    check(paths.TOKENS)
    check(paths.sae(name))
    lm = LanguageModel.load(models.base, models.revision, models.dtype, models.device)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    tokens, site = Tokens.load(paths.TOKENS), lm.site(params.site)
    ids, held_out = tokens.first_train(config.n_tokens), tokens.held_out
    unit = median_norm(lm, site, held_out[:NORM_BLOCKS])
    firings = find_firings(sae, lm, site, ids, config.batch_size)
    features, examples = describe(sae, lm, site, ids, config, firings=firings)
    features = features.join(score(sae, lm, site, firings, ids, held_out, unit, config))
    shown = gallery(sae, lm, site, features, unit, config)
    known = about(params, name, ids.numel(), sae.cfg.d_sae) | {"median_norm": unit}
    with new_folder(paths.features(name), known) as folder:
        (folder / "gallery.json").write_text(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
        features.to_parquet(folder / "features.parquet", compression="zstd")
        examples.to_parquet(folder / "examples.parquet", compression="zstd")


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
