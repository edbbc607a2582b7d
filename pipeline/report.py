"""report: what all stages left -> reports/<name>.html for each SAE, and reports/index.html, which compares them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.params import Params, run

if TYPE_CHECKING:
    from sae_tools.analysis.store import FeatureStore
    from sae_tools.reports.report import Contents, Shown

N_FEATURES, N_EXAMPLES = 20, 3


def main(params: Params) -> None:
    from sae_tools.common.artifacts import new_folder
    from sae_tools.reports.report import index, report

    found = {name: contents(params, name) for name in params.saes}
    with new_folder(paths.REPORTS, {"saes": list(found)}) as folder:
        for name, of_sae in found.items():
            (folder / f"{name}.html").write_text(report(of_sae))
        page = index({n: c.figures for n, c in found.items()}, {n: c.verdict for n, c in found.items()})
        (folder / "index.html").write_text(page)


def contents(params: Params, name: str) -> Contents:
    """What is on disk of one SAE."""
    import json
    from importlib.metadata import version

    import pandas as pd

    from sae_tools.analysis.store import FeatureStore
    from sae_tools.common.artifacts import read_manifest, verify
    from sae_tools.reports.report import Contents

    folder = paths.evaluation(name)
    about = verify(folder)
    store = FeatureStore.open(paths.features(name))
    tables = {path.stem: pd.read_parquet(path) for path in sorted(folder.glob("*.parquet"))}
    return Contents(
        name,
        params.language_model.base,
        params.site,
        about["architecture"],
        about["d_in"],
        about["d_sae"],
        json.loads((folder / "verdict.json").read_text()),
        json.loads((folder / "figures.json").read_text()),
        tables | {"curve": pd.read_csv(paths.plot("train", name), sep="\t")},
        features(store),
        read_manifest(paths.sae(name))[1]["recipe"],
        store.table["label"].to_dict(),
        transferred(name),
        {library: version(library) for library in ("torch", "transformers", "sae-lens")},
    )


def features(store: FeatureStore) -> list[Shown]:
    """Features that fire, drawn at random, always the same ones, each with its strongest examples."""
    from transformers import AutoTokenizer

    from sae_tools.models.lm import pieces
    from sae_tools.reports.report import Shown

    base = store.about["base"]
    tokenizer: Any = AutoTokenizer.from_pretrained(base["name"], revision=base["revision"], trust_remote_code=False)
    special = set(tokenizer.all_special_ids)

    def text_of(ids: list[int]) -> list[str]:
        found = zip(ids, pieces(tokenizer, ids), strict=True)
        return [" ┊ " if token in special else piece for token, piece in found]

    live = store.table[store.table["maximum"] > 0]
    drawn = live.sample(min(N_FEATURES, len(live)), random_state=0)
    return [
        Shown(
            int(feature),
            row["label"],
            row["density"],
            row["maximum"],
            [(text_of(e.ids), e.values) for e in store.examples(int(feature))[:N_EXAMPLES]],
            [tokenizer.decode([token]) for token in row["top_tokens"]],
        )
        for feature, row in drawn.to_dict("index").items()
    ]


def transferred(name: str) -> dict[str, dict[str, float]]:
    """Figures of the SAE by model and text."""
    import json

    path = paths.transfer(name) / "figures.json"
    if not path.exists():
        return {}
    found = json.loads(path.read_text())
    texts = {"base_text": "its own text", "finetuned_text": "the finetuned model's text"}
    return {
        f"{which} model, {words}": found[text][which]
        for text, words in texts.items()
        if text in found
        for which in ("base", "finetuned")
    }


if __name__ == "__main__":
    run(main, named=False)
