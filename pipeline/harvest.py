"""harvest: text + base model -> artifacts/tokens (train and held-out ids) and artifacts/activations (shards)."""

from __future__ import annotations

from pipeline import paths
from pipeline.params import Params, run


def main(params: Params) -> None:
    from sae_tools.artifacts import new_folder
    from sae_tools.corpus import tokenize, trained_positions
    from sae_tools.harvest import harvest
    from sae_tools.lm import LanguageModel
    from sae_tools.sources import check_context

    models, dataset = params.language_model, params.dataset
    lm = LanguageModel.load(models.base, models.revision, models.dtype, models.device)
    check_context(dataset, "dataset", lm.name, lm.config.to_dict())
    tokens = tokenize(dataset, lm.tokenizer)
    about = {"dataset": dataset.path, "model": lm.name, "special_ids": lm.special_ids}
    with new_folder(paths.TOKENS, about) as folder:
        tokens.save(folder)
    site = lm.site(params.site)
    wanted = trained_positions(dataset, lm.is_text(tokens.train))
    shards: dict[str, object] = {"model": lm.name, "site": site.name}
    with new_folder(paths.ACTIVATIONS, shards) as folder:
        shards |= harvest(lm, tokens.train, wanted, [site], params.harvest, folder)


if __name__ == "__main__":
    run(main, named=False)
