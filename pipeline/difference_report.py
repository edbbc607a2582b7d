"""What the diff stage left -> the contents of reports/difference.html."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params
from pipeline.transfer_report import TextOf

if TYPE_CHECKING:
    import pandas as pd

    from sae_tools.reports.difference import DifferenceContents, Latent

N_LATENTS, N_EXAMPLES = 8, 3


def difference_contents(params: Params, text_of: TextOf) -> DifferenceContents | None:
    """What is on disk; None where no crosscoder was asked for."""
    import pandas as pd

    from sae_tools.analysis.difference_verdict import difference_verdict
    from sae_tools.common.artifacts import verify
    from sae_tools.reports.difference import DifferenceContents

    folder, finetuned = paths.CROSSCODER, params.language_model.finetuned
    if params.transfer.diff is None or finetuned is None:
        return None
    verify(folder)
    figures = json.loads((folder / "figures.json").read_text())
    latents = pd.read_parquet(folder / "latents.parquet")
    examples = pd.read_parquet(folder / "examples.parquet")
    live = latents[latents["density"] > 0].sort_values("relative_norm", kind="stable")
    sides = {"finetuned": live[::-1][:N_LATENTS], "base": live[:N_LATENTS]}
    return DifferenceContents(
        params.language_model.base,
        finetuned,
        params.site,
        difference_verdict(figures),
        figures,
        {side: shown(rows, examples, text_of) for side, rows in sides.items()},
    )


def shown(rows: pd.DataFrame, examples: pd.DataFrame, text_of: TextOf) -> list[Latent]:
    """Latents with the text of their strongest examples."""
    from sae_tools.reports.difference import Latent

    by_latent: dict[int, Any] = {int(latent): found for latent, found in examples.groupby("feature")}
    return [
        Latent(
            int(latent),
            row,
            [
                (text_of(ids.tolist()), values.tolist())
                for ids, values in by_latent[int(latent)][["ids", "values"]][:N_EXAMPLES].itertuples(index=False)
            ],
        )
        for latent, row in rows.to_dict("index").items()
        if latent in by_latent
    ]
