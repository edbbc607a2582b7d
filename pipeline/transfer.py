"""transfer: SAE + base and finetuned model on equal tokens -> metrics/transfer/<name>.json, artifacts/transfer/<name>.

The metrics hold what people compare; the folder has every figure, the tables behind the report, and the verdict. Under
torchrun the processes share the batches, and the first writes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params, run
from pipeline.workers import spread
from sae_tools.common.settings import Pretrained

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from sae_tools.analysis.transfer import Transferred
    from sae_tools.models.lm import LanguageModel

MODELS, KEYS = ("base", "finetuned"), ("explained_variance", "ce_loss_score")
CHANGED, EXAMPLES = 12, 2
"""Features that changed most, and examples of each in each model."""


def main(params: Params, name: str) -> None:
    from sae_tools.common import distributed
    from sae_tools.common.artifacts import new_folder, write_json

    if params.language_model.finetuned is None:
        if distributed.rank() == 0:
            write_json(paths.metrics("transfer", name), {})
            with new_folder(paths.transfer(name)):
                pass
        return
    if params.language_model.device_map is None:  # else one process has all GPUs
        spread(params.language_model.device)

    with distributed.group():
        _transfer(params, name)


def _transfer(params: Params, name: str) -> None:
    import torch

    from sae_tools import saes
    from sae_tools.analysis.changed import examples, most_changed
    from sae_tools.analysis.transfer import transfer
    from sae_tools.common import distributed
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base, load_finetuned
    from sae_tools.verify import check

    models, config = params.language_model, params.transfer
    check(paths.TOKENS)
    check(paths.sae(name))
    base = load_base(models)
    finetuned = load_finetuned(models)
    sae, site = saes.load(paths.sae(name), device=str(base.device)), base.site(params.site)
    texts = {"base_text": Tokens.load(paths.TOKENS).first_held_out(config.n_tokens)}
    if config.dataset is not None:
        texts["finetuned_text"] = own_text(params, base, finetuned)
    result = transfer(sae, base, finetuned, site, texts, config.batch_size, models.least_agreement, config.outlier_norm)
    figures = result.metrics | own_sae(params, name, base, finetuned, texts)
    changed = most_changed(result.features, sae.W_dec.detach().norm(dim=-1).float().cpu().numpy(), CHANGED)
    every, which = torch.cat([*texts.values()]), [int(feature) for feature in changed.index]
    shown = examples(sae, base, finetuned, site, every, config.batch_size, which, EXAMPLES)
    if distributed.rank() == 0:
        _write(name, result, figures, changed, shown, base, texts)


def own_text(params: Params, base: LanguageModel, finetuned: LanguageModel) -> Tensor:
    """(n_blocks, context) ids of the finetuned model's own text, read by the first process for all."""
    from sae_tools.common import distributed
    from sae_tools.models.pair import own_tokens

    config = params.transfer
    assert config.dataset is not None
    if distributed.rank() > 0:
        return distributed.cat([])
    own = own_tokens(replace(config.dataset, n_tokens=0), finetuned.tokenizer, finetuned.name, base.d_vocab)
    return distributed.cat([own.first_held_out(config.n_tokens)])


def _write(
    name: str, result: Transferred, figures: dict[str, Any], changed: pd.DataFrame, shown: pd.DataFrame,
    base: LanguageModel, texts: dict[str, Tensor],
) -> None:  # fmt: skip
    from sae_tools.analysis.transfer_verdict import transfer_verdict
    from sae_tools.common.artifacts import new_folder, write_json

    with new_folder(paths.transfer(name), {"sae": name}) as folder:
        result.features.to_parquet(folder / "features.parquet")
        changed.to_parquet(folder / "changed.parquet")
        shown.to_parquet(folder / "examples.parquet")
        for text, alignment in result.alignments.items():
            tables = {
                "positions": alignment.by_position(), "sequences": alignment.by_sequence(),
                "tokens": alignment.tokens(), "cosines": alignment.heat(),
                "outliers": alignment.listed(base, texts[text]),
            }  # fmt: skip
            for what, table in tables.items():
                table.to_parquet(folder / f"{what}-{text}.parquet")
        write_json(folder / "figures.json", figures)
        verdict = transfer_verdict(figures, adapted(name))
        write_json(folder / "verdict.json", verdict)
    write_json(paths.metrics("transfer", name), compared(figures))
    print(f"\n{name}:", *verdict, sep="\n  ")


def own_sae(
    params: Params, name: str, base: LanguageModel, finetuned: LanguageModel, texts: dict[str, Tensor]
) -> dict[str, Any]:
    """`own`: the metrics of the finetuned model's own SAE by text and model, where there is one (Kissane et al.)."""

    from sae_tools import saes
    from sae_tools.analysis.evaluate import Evaluator
    from sae_tools.analysis.predictions import mean_activation

    config = params.transfer
    if not config.own:
        return {}
    own = config.own if isinstance(config.own, Pretrained) else Pretrained(str(paths.adapted(name)), "own")
    sae, site = saes.load(own.release, own.sae_id, str(base.device)), base.site(params.site)
    saes.check_width(sae, base.width(site), "transfer.own", params.site)
    found: dict[str, Any] = {text: {} for text in texts}
    for text, ids in texts.items():
        for which, lm in zip(MODELS, (base, finetuned), strict=True):
            mean = mean_activation(lm, site, ids, config.batch_size)
            evaluator = Evaluator(sae, lm, site, mean).add_all(ids, config.batch_size)
            found[text][which] = evaluator.result().metrics
    return {"own": found}


def adapted(name: str) -> dict[str, Any] | None:
    """The figures of the repaired SAEs, if any."""
    path = paths.adapted(name) / "figures.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if "n_tokens" in found else None


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
