"""transfer: SAE + base and finetuned model on equal tokens -> metrics/transfer/<name>.json, artifacts/transfer/<name>.

The metrics hold what people compare; the folder has every figure and a table of features.
"""

from __future__ import annotations

from typing import Any

from pipeline import paths
from pipeline.params import Params, run

MODELS, KEYS = ("base", "finetuned"), ("explained_variance", "ce_loss_score")


def main(params: Params, name: str) -> None:
    from sae_tools import saes
    from sae_tools.analysis.transfer import transfer
    from sae_tools.common.artifacts import new_folder, write_json
    from sae_tools.models.corpus import Tokens, tokenize
    from sae_tools.models.lm import LanguageModel
    from sae_tools.verify import check

    models, config = params.language_model, params.transfer
    if models.finetuned is None:
        write_json(paths.metrics("transfer", name), {})
        with new_folder(paths.transfer(name)):
            return
    check(paths.TOKENS)
    check(paths.sae(name))
    base = LanguageModel.load(models.base, models.revision, models.dtype, models.device)
    finetuned = LanguageModel.load(models.finetuned, models.finetuned_revision, models.dtype, models.device)
    sae = saes.load(paths.sae(name), device=str(base.device))
    texts = {"base_text": Tokens.load(paths.TOKENS).first_held_out(config.n_tokens)}
    if config.dataset is not None:
        texts["finetuned_text"] = tokenize(config.dataset, base.tokenizer).first_held_out(config.n_tokens)
    result = transfer(sae, base, finetuned, base.site(params.site), texts, config.batch_size)
    with new_folder(paths.transfer(name), {"sae": name}) as folder:
        result.features.to_parquet(folder / "features.parquet")
        write_json(folder / "figures.json", result.metrics)
    write_json(paths.metrics("transfer", name), compared(result.metrics))


def compared(figures: dict[str, Any]) -> dict[str, Any]:
    """The twelve or so by which people compare runs."""
    features, tokenizer = figures["features"], figures["tokenizer"]
    few: dict[str, Any] = {
        "tokenizer_agreement": tokenizer["agreement"],
        "correlation_median": features["correlation_median"],
        "share_above_0.9": features["share_above_0.9"],
    }
    for text in ("base_text", "finetuned_text"):
        if text in figures:
            few |= {f"{text}_{which}_{key}": figures[text][which][key] for which in MODELS for key in KEYS}
            few[f"{text}_cosine"] = figures[text]["activations"]["cosine"]
    return few


if __name__ == "__main__":
    run(main)
