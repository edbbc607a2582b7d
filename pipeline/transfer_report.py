"""What the transfer stages left of an SAE -> the contents of reports/transfer-<name>.html."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params

if TYPE_CHECKING:
    import pandas as pd

    from sae_tools.reports.transfer import Changed, TransferContents

TextOf = Callable[[list[int]], list[str]]


def transfer_contents(params: Params, name: str, labels: Mapping[int, str], text_of: TextOf) -> TransferContents | None:
    """What is on disk; None where no finetuned model was given."""
    import pandas as pd

    from sae_tools.common.artifacts import verify
    from sae_tools.reports.transfer import TransferContents

    folder, repaired = paths.transfer(name), paths.adapted(name)
    if params.language_model.finetuned is None:
        return None
    verify(folder)
    tables = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    adapted: dict[str, Any] = {}
    if (repaired / "figures.json").exists():
        verify(repaired)
        found = json.loads((repaired / "figures.json").read_text())
        adapted = found if "n_tokens" in found else {}
    return TransferContents(
        name,
        params.language_model.base,
        params.language_model.finetuned,
        params.site,
        json.loads((folder / "verdict.json").read_text()),
        json.loads((folder / "figures.json").read_text()),
        tables,
        changed(tables["changed"], tables["examples"], labels, text_of),
        adapted,
        params.transfer.diff is not None,
        pd.read_parquet(repaired / "curve.parquet") if adapted else pd.DataFrame(),
    )


def changed(
    features: pd.DataFrame, examples: pd.DataFrame, labels: Mapping[int, str], text_of: TextOf
) -> list[Changed]:
    """The features that changed most, with the text of their examples."""
    from sae_tools.reports.transfer import Changed

    by_feature: dict[int, Any] = {int(feature): rows for feature, rows in examples.groupby("feature")}
    return [
        Changed(
            int(feature),
            labels.get(int(feature), ""),
            row,
            [
                (it.kind, text_of(it.ids.tolist()), it.base.tolist(), it.finetuned.tolist())
                for it in by_feature[int(feature)].itertuples()
            ],
        )
        for feature, row in features.to_dict("index").items()
    ]
