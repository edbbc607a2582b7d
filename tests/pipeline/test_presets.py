"""Each preset as it is, from an empty cache to the page, on small models, texts and SAEs of the published kinds.

Nothing but sizes is changed. A Hub in a thread serves them under the names and revisions that the preset gives.
"""

from __future__ import annotations

import itertools
import json
import math
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
from ruamel.yaml import YAML
from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory
from safetensors.torch import load_file

from tests.conftest import ASSETS, REPO, run_pipeline
from tests.hub import environment, hub
from tests.pipeline.published import MODELS, SAES
from tests.pipeline.substitutes import D_SAE, put_dataset, put_gelu_1l, put_model, put_sae, sae_weights

Values = dict[str, Any]
Run = Callable[[Values], tuple[Path, Values]]
LIMITS = {
    "context_size": 64, "n_tokens": 8_192, "held_out_tokens": 1_024, "d_sae": D_SAE, "training_tokens": 8_192,
    "batch_size": 512, "n_gained": 32, "n_calibrated": 2, "k": 8, "target_l0": 8, "dead_after_tokens": 4_096,
    "resample_every": 5,
}  # fmt: skip
"""The largest that a number of a params file may be here."""
OTHERS = {"new_tokens": 4, "prompts": ["One morning, Ben went to the beach."]}
"""Sizes of the features stage that no preset names."""
TEXT = "Once upon a time there was a fox."


def read(preset: str) -> Values:
    values: Values = YAML(typ="safe", pure=True).load(REPO / "presets" / f"{preset}.yaml")
    return values


FILES = sorted(path.stem for path in (REPO / "presets").glob("*.yaml"))
PRESETS = [name for name in FILES if "PATH/TO" not in read(name)["language_model"]["base"]]


def small(value: Any) -> Any:
    """A params file, its sizes alone lowered."""
    if not isinstance(value, dict):
        return value
    return {key: min(item, LIMITS[key]) if key in LIMITS else small(item) for key, item in value.items()}


def serve(folder: Path, values: Values) -> None:
    """Put all that a preset names where `hub` finds it."""
    models, study = values["language_model"], values["transfer"]
    stories = pd.read_parquet(ASSETS / "stories.parquet")["text"][:400].tolist()
    plays = pd.read_parquet(ASSETS / "shakespeare.parquet")["text"][:100].tolist()
    n_layers = int(values["site"].split(".")[1]) + 2
    if models["base"] == "transformer-lens:gelu-1l":
        put_gelu_1l(folder, models["revision"], stories[:40])
    else:
        put_model(folder, models["base"], models["revision"], n_layers, stories[:40])
    if models["finetuned"]:
        own = plays if MODELS[models["finetuned"]].first else stories[:40]
        put_model(folder, models["finetuned"], models["finetuned_revision"], n_layers, own)
    for dataset, texts in ((values["dataset"], stories), (study.get("dataset"), plays)):
        if dataset:
            column = dataset.get("text_column", "text")
            put_dataset(folder, dataset["path"], dataset["revision"], column, texts)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Run the stages and open the page on a params file, in a process that takes our Hub for the Hub."""
    folder, home = tmp_path_factory.mktemp("hub"), tmp_path_factory.mktemp("home")
    spawn = multiprocessing.get_context("spawn")
    with hub(folder) as endpoint, ProcessPoolExecutor(1, spawn) as pool:
        with mock.patch.dict(os.environ, environment(endpoint, home), clear=True):
            pool.submit(os.getpid).result()

        def go(values: Values) -> tuple[Path, Values]:
            for cached in (*folder.iterdir(), *home.iterdir()):
                shutil.rmtree(cached)
            serve(folder, values)
            for place in SAES:
                put_sae(folder, place)
            place = tmp_path_factory.mktemp("run")
            return place, pool.submit(work, place, values).result(120)

        yield go


def work(place: Path, values: Values) -> Values:
    """In the other process: every stage, then a text on the page, in each SAE."""
    from demo.reading import read as read_text
    from demo.results import Results
    from demo.workbench import Workbench

    # Gemma Scope says its sizes nowhere: SAELens reads them off the names of folders.
    get_pretrained_saes_directory()["gemma-scope-2b-pt-res-canonical"].config_overrides = {"d_in": 32, "d_sae": D_SAE}
    run_pipeline(place, values)
    workbench = Workbench(Results(place / "artifacts"))
    found: Values = {}
    for name in values["saes"]:
        opened = workbench.open(name)
        found[name] = {
            "fires": len(read_text(opened, TEXT).firings()),
            "dtype": str(opened.base.model.dtype),
            "finetuned": len(read_text(opened, TEXT, "finetuned").firings()) if opened.has_finetuned else None,
        }
    return found


def found(place: Path, *parts: str) -> Any:
    return json.loads(place.joinpath(*parts).read_text())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_goes_from_an_empty_cache_to_the_page(run: Run, preset: str) -> None:
    values = small(read(preset))
    values["features"] |= OTHERS
    place, page = run(values)
    models, names = values["language_model"], set(values["saes"])
    reports = {"index", *names, *(f"transfer-{name}" for name in names if models["finetuned"])}
    assert {path.stem for path in (place / "reports").glob("*.html")} == reports
    for name, recipe in values["saes"].items():
        figures = found(place, "artifacts/evaluation", name, "figures.json")
        assert all(map(math.isfinite, (figures["explained_variance"], figures["l0"], figures["ce_loss_with_sae"])))
        about = found(place, "artifacts/saes", name, "cfg.json")
        assert about["metadata"]["hook_name"] == values["site"]
        assert (about["d_in"], about["d_sae"]) == (48 if values["site"].endswith("mlp.hook_post") else 32, D_SAE)
        assert page[name]["fires"] > 0
        assert page[name]["dtype"] == f"torch.{models['dtype']}"
        assert (page[name]["finetuned"] is None) == (models["finetuned"] is None)
        if recipe.get("architecture") == "topk":
            assert figures["l0"] == pytest.approx(recipe["k"], abs=1.5)
    if preset in WHAT_ELSE:
        WHAT_ELSE[preset](place)


def _three_instances(place: Path) -> None:
    assert 0 < found(place, "metrics/train/topk.json")["seeds"]["mean_max_cosine"] < 1
    weights = [
        load_file(place / "artifacts/saes/topk" / seed / "sae_weights.safetensors")["W_dec"]
        for seed in ("", "seed-1", "seed-2")
    ]
    assert not any(one.equal(other) for one, other in itertools.combinations(weights, 2))


def _middle_tokens(place: Path) -> None:
    rows = found(place, "artifacts/activations/manifest.json")["about"]["blocks.5.hook_mlp_out"]["n_rows"]
    blocks = LIMITS["n_tokens"] // LIMITS["context_size"]
    assert blocks - 5 < rows <= blocks  # one a block, but where an end token stands there


def _another_tokenizer(place: Path) -> None:
    figures = found(place, "artifacts/transfer/res-jb/figures.json")
    assert figures["tokenizer"]["agreement"] < 0.01
    _is_published("jbloom/GPT2-Small-SAEs-Reformatted/blocks.6.hook_resid_pre", place, "res-jb", centred=True)


def _a_token_renamed(place: Path) -> None:
    tokens = found(place, "artifacts/transfer/res-jb/figures.json")["tokenizer"]
    assert (tokens["only_base"], tokens["only_finetuned"], tokens["moved"]) == (1, 1, 0)
    folder = "gemma_2b_blocks.6.hook_resid_post_16384_anthropic_fast_lr"
    _is_published(f"jbloom/Gemma-2b-Residual-Stream-SAEs/{folder}", place, "res-jb")


def _a_token_added(place: Path) -> None:
    figures = found(place, "artifacts/transfer/res-wg/figures.json")
    assert (figures["tokenizer"]["only_finetuned"], figures["tokenizer"]["added_rows"]) == (1, 1)
    assert figures["base_text"]["activations"]["outlier_limit"] == 200
    assert found(place, "artifacts/saes/res-wg/cfg.json")["normalize_activations"] == "constant_norm_rescale"
    _is_published("JoshEngels/Mistral-7B-Residual-Stream-SAEs/mistral_7b_layer_8", place, "res-wg")


def _gemma_scope(place: Path) -> None:
    assert found(place, "artifacts/saes/gemma-scope/cfg.json")["architecture"] == "jumprelu"
    _is_published("google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82", place, "gemma-scope")


def _is_published(place: str, run: Path, name: str, centred: bool = False) -> None:
    """Whether an SAE is the one that was fetched, but for the mean that GPT-2's encoder no longer reads."""
    weights, used = sae_weights(place), load_file(run / "artifacts/saes" / name / "sae_weights.safetensors")
    encoder = weights["W_enc"] - weights["W_enc"].mean(dim=0) if centred else weights["W_enc"]
    assert used["W_dec"].equal(weights["W_dec"])
    assert used["W_enc"].allclose(encoder)


WHAT_ELSE: dict[str, Callable[[Path], None]] = {
    "gpt2": _three_instances,
    "gpt2-transfer": _another_tokenizer,
    "pythia-70m": _middle_tokens,
    "gemma-2b": _a_token_renamed,
    "mistral-7b": _a_token_added,
    "gemma-2-2b": _gemma_scope,
}
"""What a preset is there for, beside what all have in common."""


@pytest.mark.parametrize("preset", PRESETS)
def test_what_comes_from_the_hub_is_pinned_or_says_that_it_is_not(preset: str) -> None:
    lines = (REPO / "presets" / f"{preset}.yaml").read_text().splitlines()
    revisions = [line for line in lines if re.match(r"\s+(finetuned_)?revision:", line)]
    values = read(preset)
    models, texts = values["language_model"], [values["dataset"], values["transfer"].get("dataset")]
    named = [models["base"], models["finetuned"], *(text["path"] for text in texts if text)]
    assert len(revisions) == len([name for name in named if name])
    for line in revisions:
        assert re.search(r": [0-9a-f]{40}$|: null +# not pinned: put the commit you use here$", line), line


@pytest.mark.parametrize("preset", PRESETS)
def test_a_pretrained_sae_is_in_saelens_directory_and_of_the_site_and_model(preset: str) -> None:
    directory, values = get_pretrained_saes_directory(), read(preset)
    for source in values["saes"].values():
        if "release" in source:
            about = directory[source["release"]]
            folder = about.saes_map[source["sae_id"]]
            assert f"{about.repo_id}/{folder}" in SAES
            model = values["language_model"]["base"].partition("/")[2].lower()
            assert model.startswith(about.model.removesuffix("-small"))
