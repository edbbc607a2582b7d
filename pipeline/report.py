"""report: what all stages left -> reports/<name>.html and transfer-<name>.html for each SAE, index.html for all."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.difference_report import difference_contents
from pipeline.params import Params, run
from pipeline.transfer_report import TextOf, transfer_contents

if TYPE_CHECKING:
    from sae_tools.analysis.store import FeatureStore
    from sae_tools.reports.report import Contents, Shown

N_FEATURES, N_EXAMPLES = 20, 3


def main(params: Params) -> None:
    from sae_tools.analysis.store import FeatureStore
    from sae_tools.common.artifacts import new_folder
    from sae_tools.reports.difference import difference_report
    from sae_tools.reports.report import index, report
    from sae_tools.reports.transfer import transfer_report

    stores = {name: FeatureStore.open(paths.features(name)) for name in params.saes}
    found = {name: contents(params, name, store) for name, store in stores.items()}
    studies = {
        name: study
        for name, store in stores.items()
        if (study := transfer_contents(params, name, found[name].labels, texts(store)))
    }
    difference = difference_contents(params, texts(next(iter(stores.values()))))
    pages = {name: report(of_sae) for name, of_sae in found.items()}
    pages |= {f"transfer-{name}": transfer_report(study) for name, study in studies.items()}
    pages |= {"difference": difference_report(difference)} if difference else {}
    pages["index"] = index(
        {name: of_sae.figures for name, of_sae in found.items()},
        {name: of_sae.verdict for name, of_sae in found.items()},
        {name: study.verdict for name, study in studies.items()},
        difference is not None,
    )
    with new_folder(paths.REPORTS, {"saes": list(found)}) as folder:
        for name, page in pages.items():
            (folder / f"{name}.html").write_text(page)


def contents(params: Params, name: str, store: FeatureStore) -> Contents:
    """What is on disk of one SAE."""
    import json
    from importlib.metadata import version

    import pandas as pd

    from sae_tools.common.artifacts import read_manifest, verify
    from sae_tools.reports.report import Contents

    folder = paths.evaluation(name)
    about = verify(folder)
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


def tokenizer_of(store: FeatureStore) -> Any:
    from sae_tools.models.loading import load_tokenizer

    base = store.about["base"]
    return load_tokenizer(base["name"], base["revision"])


def texts(store: FeatureStore) -> TextOf:
    """What gives the text of each of some tokens, a bar for a special one."""
    from sae_tools.models.lm import shown_pieces

    return functools.partial(shown_pieces, tokenizer_of(store))


def features(store: FeatureStore) -> list[Shown]:
    """Features that fire, drawn at random, always the same ones, each with its strongest examples."""
    from sae_tools.reports.report import Shown

    text_of, tokenizer = texts(store), tokenizer_of(store)
    live = store.table[store.table["maximum"] > 0]
    drawn = live.sample(min(N_FEATURES, len(live)), random_state=0)
    return [
        Shown(
            int(feature),
            row["label"],
            row["density"],
            row["maximum"],
            [(text_of(e.ids), e.values) for e in store.examples(int(feature))[:N_EXAMPLES]],
            [tokenizer.decode([token]) for token in store.row(int(feature))["top_tokens"]],
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
