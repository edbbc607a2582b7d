"""transfer: SAE + base and finetuned model on equal tokens -> metrics/transfer/<name>.json, a table of features."""

from __future__ import annotations

from pipeline import paths
from pipeline.params import Params, run


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
    write_json(paths.metrics("transfer", name), result.metrics)


if __name__ == "__main__":
    run(main)
