"""evaluate: SAE + base model + held-out tokens -> metrics/evaluate/<name>.json, artifacts/evaluation/<name>, a verdict.

The metrics hold what people compare; the folder has every figure, the tables behind the report, and the verdict. Under
torchrun the processes share the batches, and the first writes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params, run
from pipeline.workers import spread

if TYPE_CHECKING:
    import pandas as pd

    from sae_tools.analysis.evaluate import Evaluation
    from sae_tools.saes import SAE

COMPARED = (
    "ce_loss_score", "ce_loss_with_sae", "ce_loss_without_sae", "cossim", "dead_share", "duplicate_share",
    "explained_variance", "freq_over_10_percent", "kl_div_with_sae", "l0", "n_tokens", "top1_agreement",
)  # fmt: skip


def main(params: Params, name: str) -> None:
    if params.language_model.device_map is None:  # else one process has all GPUs
        spread(params.language_model.device)
    from sae_tools.common import distributed

    with distributed.group():
        _evaluate(params, name)


def _evaluate(params: Params, name: str) -> None:
    import pandas as pd

    from sae_tools import saes
    from sae_tools.analysis.evaluate import evaluate
    from sae_tools.analysis.probing import probe, read_table
    from sae_tools.common import distributed
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import load_base
    from sae_tools.verify import check

    models, config = params.language_model, params.evaluate
    tables = [read_table(Path(path)) for path in config.probes]
    check(paths.TOKENS)
    check(paths.sae(name))
    lm = load_base(models)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    ids = Tokens.load(paths.TOKENS).first_held_out(config.n_tokens)
    result = evaluate(sae, lm, lm.site(params.site), ids, config.batch_size)
    chance = paths.baseline(name)
    baseline = None
    if (chance / "cfg.json").exists():
        check(chance)
        frozen = saes.load(chance, device=str(lm.device))
        baseline = evaluate(frozen, lm, lm.site(params.site), ids, config.batch_size).metrics
    probes = [probe(sae, lm, lm.site(params.site), table, config.batch_size) for table in tables]
    if distributed.rank() == 0:
        found = result.tables() | ({"probes": pd.concat(probes, ignore_index=True)} if probes else {})
        _write(name, sae, result, found, baseline)


def _write(
    name: str, sae: SAE[Any], result: Evaluation, found: dict[str, pd.DataFrame], baseline: dict[str, float] | None
) -> None:
    from sae_tools.analysis.verdict import verdict
    from sae_tools.common.artifacts import new_folder, read_manifest, write_json

    recipe = read_manifest(paths.sae(name))[1]["recipe"]
    sentences = verdict(result.metrics, sae.cfg.d_in, recipe, curve(name), baseline)
    about = {"sae": name, "architecture": sae.cfg.architecture(), "d_in": sae.cfg.d_in, "d_sae": sae.cfg.d_sae}
    with new_folder(paths.evaluation(name), about) as folder:
        write_json(folder / "figures.json", result.metrics)
        write_json(folder / "verdict.json", sentences)
        if baseline:
            write_json(folder / "baseline.json", baseline)
        for what, table in found.items():
            table.to_parquet(folder / f"{what}.parquet")
    write_json(paths.metrics("evaluate", name), {key: result.metrics[key] for key in COMPARED})
    trips = result.latents[["round_trip_max"]].sort_values("round_trip_max", ascending=False, ignore_index=True)
    plots = {what: found[what] for what in ("density", "l0", "positions")} | {"round_trip": trips.rename_axis("latent")}
    for what, table in plots.items():
        plot = paths.plot(what, name)
        plot.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(plot, sep="\t", float_format="%.6g")
    print(f"\n{name}:", *sentences, sep="\n  ")


def curve(name: str) -> list[float]:
    """Explained variance over the training steps."""
    import pandas as pd

    table = pd.read_csv(paths.plot("train", name), sep="\t")
    return [float(value) for value in table["explained_variance"]]


if __name__ == "__main__":
    run(main)
