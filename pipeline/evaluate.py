"""evaluate: SAE + base model + held-out tokens -> metrics/evaluate/<name>.json and the histogram of densities."""

from __future__ import annotations

from pipeline import paths
from pipeline.params import Params, run


def main(params: Params, name: str) -> None:
    import numpy as np
    import pandas as pd

    from sae_tools import saes
    from sae_tools.analysis.evaluate import evaluate
    from sae_tools.common.artifacts import write_json
    from sae_tools.models.corpus import Tokens
    from sae_tools.models.lm import LanguageModel
    from sae_tools.verify import check

    models, config = params.language_model, params.evaluate
    check(paths.TOKENS)
    check(paths.sae(name))
    lm = LanguageModel.load(models.base, models.revision, models.dtype, models.device)
    sae = saes.load(paths.sae(name), device=str(lm.device))
    ids = Tokens.load(paths.TOKENS).first_held_out(config.n_tokens)
    result = evaluate(sae, lm, lm.site(params.site), ids, config.batch_size)
    write_json(paths.metrics("evaluate", name), result.metrics)
    counts, edges = np.histogram(np.log10(result.density.numpy() + 1e-6), bins=48, range=(-6, 0))
    plot = paths.plot("density", name)
    plot.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"log10_density": edges[:-1].round(4), "features": counts}).to_csv(plot, sep="\t", index=False)


if __name__ == "__main__":
    run(main)
