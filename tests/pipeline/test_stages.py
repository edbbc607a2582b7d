"""The stages, run in small on the embedded models: what they write is whole, true to the core, remade bit by bit."""

from __future__ import annotations

import contextlib
import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sae_lens
import torch
from safetensors.torch import load_file

from pipeline import adapt, baseline, diff, evaluate, features, harvest, pair, paths, report, stream, train, transfer
from pipeline.params import load
from sae_tools import saes
from sae_tools.activations.shards import Shards
from sae_tools.analysis.evaluate import evaluate as evaluate_sae
from sae_tools.analysis.store import FeatureStore
from sae_tools.common.artifacts import verify
from sae_tools.common.errors import ArtifactError, InputError, WorkbenchError
from sae_tools.models.corpus import Tokens
from sae_tools.models.lm import LanguageModel
from tests.conftest import ASSETS, SMALL, random_sae
from tests.sae_tools.reports.test_report import text_of

NAMES = tuple(SMALL["saes"])


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return LanguageModel.load(str(ASSETS / "stories"), device="cpu")


@pytest.fixture
def copied(workbench: Path, tmp_path: Path) -> Path:
    """A workbench of one's own to change."""
    return Path(shutil.copytree(workbench, tmp_path / "copy"))


def params_of(folder: Path, change: Callable[[dict[str, Any]], object] | None = None) -> Any:
    values = copy.deepcopy(SMALL)
    if change:
        change(values)
    (folder / "params.yaml").write_text(json.dumps(values))
    with contextlib.chdir(folder):
        return load()


def read_metrics(workbench: Path, stage: str, name: str) -> dict[str, Any]:
    values = json.loads((workbench / paths.metrics(stage, name)).read_text())
    assert isinstance(values, dict)
    return values


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, but for what an unfinished run left to go on from."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if ".partial-" not in str(p)}


def test_every_artifact_is_whole(workbench: Path) -> None:
    folders = [paths.TOKENS, paths.ACTIVATIONS]
    for name in NAMES:
        folders += [paths.sae(name), paths.transfer(name), paths.features(name), paths.evaluation(name)]
    folders.append(paths.REPORTS)
    for folder in folders:
        verify(workbench / folder)
    assert {p.name for p in workbench.iterdir()} == {"params.yaml", "artifacts", "metrics", "plots", "reports"}
    assert not list(workbench.rglob(".*"))


def test_harvest_writes_the_activations_of_the_train_tokens(workbench: Path, lm: LanguageModel) -> None:
    tokens = Tokens.load(workbench / paths.TOKENS)
    assert tokens.train.shape == (49_152 // 128, 128)
    assert tokens.held_out.shape == (4_096 // 128, 128)
    assert (tokens.train[:, 0] == lm.tokenizer.bos_token_id).all()
    shards = sorted((workbench / paths.ACTIVATIONS / SMALL["site"]).glob("*.safetensors"))
    rows = torch.cat([load_file(shard)["acts"] for shard in shards])
    assert len(rows) == int(lm.is_text(tokens.train).sum())
    about = verify(workbench / paths.ACTIVATIONS)
    assert about[SMALL["site"]] == {"n_rows": len(rows), "n_shards": len(shards)}
    with torch.no_grad():
        first = lm.model(tokens.train[:1].long(), output_hidden_states=True).hidden_states[3][0, 7]
    nearest = (rows.float() - first).norm(dim=-1).min() / first.norm()
    assert nearest < 0.01  # bfloat16


@pytest.mark.parametrize("name", NAMES)
def test_the_sae_opens_in_saelens_and_explains_the_model(workbench: Path, name: str) -> None:
    sae = sae_lens.SAE.load_from_disk(workbench / paths.sae(name))
    assert sae.cfg.metadata.hook_name == SMALL["site"]
    assert (sae.cfg.d_in, sae.cfg.d_sae) == (256, 512)
    metrics = read_metrics(workbench, "evaluate", name)
    assert metrics["explained_variance"] > 0.5
    assert 0.5 < metrics["ce_loss_score"] < 1.05
    assert 1 < metrics["l0"] < 200
    assert metrics["n_tokens"] <= 4_096
    probes = pd.read_parquet(workbench / paths.evaluation(name) / "probes.parquet")
    assert len(probes) == 5
    assert probes["auc"].min() > 0.6  # there is something to know, and it is known


@pytest.mark.parametrize("name", NAMES)
def test_metrics_are_those_of_the_core(workbench: Path, lm: LanguageModel, name: str) -> None:
    sae = saes.load(workbench / paths.sae(name))
    ids = Tokens.load(workbench / paths.TOKENS).held_out
    expected = evaluate_sae(sae, lm, lm.site(SMALL["site"]), ids, 16)
    every = json.loads((workbench / paths.evaluation(name) / "figures.json").read_text())
    assert every == pytest.approx(expected.metrics, rel=1e-4)
    few = read_metrics(workbench, "evaluate", name)
    assert len(few) == 12
    assert few == {key: every[key] for key in few}
    density = pd.read_csv(workbench / paths.plot("density", name), sep="\t")
    assert density["features"].sum() == 512
    never = int((expected.latents["feature_density"] == 0).sum())
    assert density.iloc[0]["features"] == never


@pytest.mark.parametrize("name", NAMES)
def test_the_curve_rises(workbench: Path, name: str) -> None:
    curve = pd.read_csv(workbench / paths.plot("train", name), sep="\t")
    assert list(curve.columns) == train.COLUMNS
    assert curve["tokens"].iloc[-1] == 98_304
    assert curve["explained_variance"].iloc[-1] > curve["explained_variance"].iloc[1] + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_transfer_compares_both_models_on_both_texts(workbench: Path, name: str) -> None:
    metrics = json.loads((workbench / paths.transfer(name) / "figures.json").read_text())
    few = read_metrics(workbench, "transfer", name)
    assert len(few) == 13
    assert few["base_text_finetuned_explained_variance"] == metrics["base_text"]["finetuned"]["explained_variance"]
    base, own = metrics["base_text"], metrics["finetuned_text"]
    assert metrics["tokenizer"]["agreement"] == 1
    assert base["base"]["ce_loss_without_sae"] < base["finetuned"]["ce_loss_without_sae"]
    assert own["finetuned"]["ce_loss_without_sae"] < own["base"]["ce_loss_without_sae"]
    assert 0 < base["activations"]["cosine"] < 1
    table = pd.read_parquet(workbench / paths.transfer(name) / "features.parquet")
    assert len(table) == 512
    assert metrics["features"]["regular"] > 0
    verdict = json.loads((workbench / paths.transfer(name) / "verdict.json").read_text())
    assert verdict[0].startswith("The SAE")
    assert "extended" not in verdict[-1]
    assert "more latents" in verdict[-1]  # what repairs it
    changed = pd.read_parquet(workbench / paths.transfer(name) / "changed.parquet")
    shown = pd.read_parquet(workbench / paths.transfer(name) / "examples.parquet")
    assert set(shown["feature"]) == set(changed.index)


def test_the_pair_is_both_models_activations_of_equal_tokens(workbench: Path) -> None:
    lm = {
        which: LanguageModel.load(str(ASSETS / name))
        for which, name in (("base", "stories"), ("finetuned", "shakespeare"))
    }
    tokens = Tokens.load(workbench / paths.PAIR / "tokens")
    own = Tokens.load(workbench / paths.TOKENS).train
    assert (tokens.train[::2] == own[: len(tokens.train[::2])]).all()  # every second block is of the base model's text
    assert not (tokens.train[1::2, None] == own[None]).all(dim=-1).any()
    shards = {which: Shards(workbench / paths.PAIR / which / SMALL["site"]) for which in lm}
    assert shards["base"].sizes == shards["finetuned"].sizes
    rows = [next(iter(shards[which].batches(64, 64, 3))) for which in lm]
    site = lm["base"].site(SMALL["site"])
    every = {which: model.activations(tokens.train, [site])[site.name].flatten(0, 1) for which, model in lm.items()}
    places = [torch.cdist(part, every[which]).min(dim=1) for which, part in zip(lm, rows, strict=True)]
    assert max(float(place.values.max()) for place in places) < 0.2  # bfloat16 on disk
    assert places[0].indices.equal(places[1].indices)


def test_a_pair_is_made_only_where_it_is_asked_for(copied: Path) -> None:
    params = params_of(copied, lambda values: values["transfer"].update(adapt=None, diff=None))
    with contextlib.chdir(copied):
        for stage in (pair, diff):
            stage.main(params)
        for stage in (adapt, transfer):
            stage.main(params, "topk")
    for path in (paths.PAIR, paths.CROSSCODER, paths.adapted("topk")):
        assert verify(copied / path) == {}
        assert {file.name for file in (copied / path).iterdir()} == {"manifest.json"}
    verdict = json.loads((copied / paths.transfer("topk") / "verdict.json").read_text())
    assert "more latents" not in verdict[-1]


def test_an_sae_of_the_finetuned_model_is_trained_where_it_is_asked_for(copied: Path) -> None:
    params = params_of(copied, lambda values: values["transfer"].update(own=True, adapt=None, diff=None))
    with contextlib.chdir(copied):
        adapt.main(params, "topk")
        transfer.main(params, "topk")
    assert {path.name for path in (copied / paths.adapted("topk")).iterdir() if path.is_dir()} == {"own"}
    figures = json.loads((copied / paths.transfer("topk") / "figures.json").read_text())
    own, base = (found["finetuned_text"]["finetuned"] for found in (figures["own"], figures))
    assert own["explained_variance"] > base["explained_variance"] + 0.05
    own, base = (found["base_text"]["base"] for found in (figures["own"], figures))
    assert own["explained_variance"] < base["explained_variance"]


def test_an_sae_of_the_finetuned_model_is_evaluated_in_both(workbench: Path, copied: Path) -> None:
    """The two by two. Here the "own" SAE is the base SAE itself, so that both halves must agree."""
    own = {"release": str(workbench / paths.sae("topk"))}
    params = params_of(copied, lambda values: values["transfer"].update(own=own, adapt=None, diff=None))
    with contextlib.chdir(copied):
        transfer.main(params, "topk")
        report.main(params)
    figures = json.loads((copied / paths.transfer("topk") / "figures.json").read_text())
    for text in ("base_text", "finetuned_text"):
        for which in ("base", "finetuned"):
            for key in ("explained_variance", "ce_loss_score", "l0"):
                assert figures["own"][text][which][key] == pytest.approx(figures[text][which][key], rel=1e-5)
    assert "The finetuned model's own SAE" in text_of(copied / "reports/transfer-topk.html")


@pytest.mark.parametrize("name", NAMES)
def test_features_can_be_looked_at(workbench: Path, lm: LanguageModel, name: str) -> None:
    store = FeatureStore.open(workbench / paths.features(name))
    assert store.about["site"] == SMALL["site"]
    assert store.about["d_sae"] == len(store.table) == 512
    sae = saes.load(workbench / paths.sae(name))
    site = lm.site(SMALL["site"])
    live = store.table[store.table["density"] > 0]
    assert len(live) > 50
    assert live["label"].str.len().min() > 0
    assert 0.1 < live["detection"].mean() < 1
    feature = int(live["maximum"].idxmax())
    example = store.examples(feature)[0]
    assert example.activation == pytest.approx(live.loc[feature, "maximum"])
    # The whole block again: the example's token is where the feature fires at its maximum.
    train_ids = Tokens.load(workbench / paths.TOKENS).first_train(SMALL["features"]["n_tokens"])
    block = next(b for b in train_ids if str(example.ids)[1:-1] in str(b.tolist()))
    acts = sae.encode(lm.activations(block[None].long(), [site])[site.name])[0, 1:, feature]
    assert float(acts.max()) == pytest.approx(example.activation, rel=1e-3)
    assert int(block[1:][acts.argmax()]) == example.ids[example.position]


@pytest.mark.parametrize("name", NAMES)
def test_a_second_run_writes_the_same_bytes(workbench: Path, copied: Path, name: str) -> None:
    params = params_of(copied)
    shutil.rmtree(copied / paths.sae(name))
    with contextlib.chdir(copied):
        train.main(params, name)
        evaluate.main(params, name)
    for folder in (paths.sae(name), Path("metrics"), Path("plots/density")):
        assert contents(copied / folder) == contents(workbench / folder)
    one, two = (pd.read_csv(folder / paths.plot("train", name), sep="\t") for folder in (workbench, copied))
    pd.testing.assert_frame_equal(one.drop(columns="tokens_per_second"), two.drop(columns="tokens_per_second"))


def test_further_seeds_are_saved_beside_the_first(workbench: Path, copied: Path) -> None:
    params = params_of(copied, lambda values: values["saes"]["topk"].update(seeds=3))
    with contextlib.chdir(copied):
        train.main(params, "topk")
    folder = copied / paths.sae("topk")
    verify(folder)
    weights = [load_file(f / "sae_weights.safetensors") for f in (folder, folder / "seed-1", folder / "seed-2")]
    first = load_file(workbench / paths.sae("topk") / "sae_weights.safetensors")
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in first.items())
    assert not torch.equal(weights[1]["W_dec"], weights[2]["W_dec"])
    agreement = read_metrics(copied, "train", "topk")["seeds"]
    assert 0 < agreement["mean_max_cosine"] < 1
    assert 0 <= agreement["share_in_all"] < 1


def test_a_class_of_one_s_own_trains_by_a_line_of_params(copied: Path) -> None:
    """The file that the README shows: k falls from four times k to k; what is saved is a plain TopK SAE."""
    name = "sae_tools.training.variants.annealed_topk"
    change = {"architecture": name, "k": 8, "training_tokens": 20_480}
    params = params_of(copied, lambda values: values["saes"]["topk"].update(change))
    with contextlib.chdir(copied):
        train.main(params, "topk")
    active = pd.read_csv(copied / paths.plot("train", "topk"), sep="\t")["l0"]
    assert active.iloc[0] > 24
    assert active.iloc[-1] == pytest.approx(8, abs=0.5)
    sae = saes.load(copied / paths.sae("topk"))
    assert (sae.cfg.architecture(), sae.cfg.k) == ("topk", 8)
    assert sae.cfg.metadata.training_architecture == "annealed_topk"


def test_one_sae_s_recipe_does_not_touch_another(workbench: Path, copied: Path) -> None:
    params = params_of(copied, lambda values: values["saes"]["topk"].update(k=8, training_tokens=2048))
    with contextlib.chdir(copied):
        train.main(params, "topk")
    assert contents(copied / paths.sae("standard")) == contents(workbench / paths.sae("standard"))
    assert contents(copied / paths.sae("topk")) != contents(workbench / paths.sae("topk"))


def test_without_a_finetune_there_is_no_transfer(copied: Path) -> None:
    params = params_of(copied, lambda values: values["language_model"].update(finetuned=None))
    with contextlib.chdir(copied):
        transfer.main(params, "topk")
    assert read_metrics(copied, "transfer", "topk") == {}
    verify(copied / paths.transfer("topk"))


def test_labels_from_a_file_are_shown_in_place_of_those_made_here(workbench: Path, copied: Path) -> None:
    for name in NAMES:
        (copied / f"{name}.csv").write_text("feature,label,source\n3,a <i>label</i>,\n511,another,Ada\n")
    labels = str(copied / "{sae}.csv")
    params = params_of(copied, lambda values: values["features"].update(labels=labels, n_tokens=1024))
    with contextlib.chdir(copied):
        features.main(params, "topk")
    store = FeatureStore.open(copied / paths.features("topk"))
    assert (store.row(3)["label"], store.row(3)["label_source"]) == ("a <i>label</i>", "person")
    assert (store.row(511)["label"], store.row(511)["label_source"]) == ("another", "Ada")
    assert set(store.table["label_source"].drop([3, 511])) == {"automatic"}
    (copied / "topk.csv").write_text("feature,label\n512,one too many\n")
    with contextlib.chdir(copied), pytest.raises(InputError, match="feature is 512, but the SAE has features 0 to 511"):
        features.main(params, "topk")


def test_a_pretrained_sae_takes_the_place_of_a_trained_one(workbench: Path, copied: Path) -> None:
    release = str(workbench / paths.sae("standard"))
    params = params_of(copied, lambda values: values["saes"].update(topk={"release": release}))
    with contextlib.chdir(copied):
        train.main(params, "topk")
        evaluate.main(params, "topk")
        features.main(params, "topk")
    expected, found = (read_metrics(workbench, "evaluate", "standard"), read_metrics(copied, "evaluate", "topk"))
    assert found == pytest.approx(expected, rel=1e-6)
    table = FeatureStore.open(copied / paths.features("topk")).table
    pd.testing.assert_frame_equal(table, FeatureStore.open(workbench / paths.features("standard")).table)
    assert len(pd.read_csv(copied / paths.plot("train", "topk"), sep="\t")) == 0


def test_what_chance_gives_is_trained_compared_and_shown(copied: Path) -> None:
    params = params_of(copied, lambda values: values["evaluate"].update(baseline=True))
    with contextlib.chdir(copied):
        baseline.main(params, "topk")
        evaluate.main(params, "topk")
        report.main(params)
    folders = (paths.sae("topk"), paths.baseline("topk"))
    trained, frozen = (load_file(copied / folder / "sae_weights.safetensors") for folder in folders)
    fresh = saes.build("topk", 256, 512, {"k": 16}, {}, 0, "cpu")

    def still(weights: dict[str, torch.Tensor]) -> float:
        return float(torch.nn.functional.cosine_similarity(weights["W_dec"], fresh.W_dec.data, dim=-1).min())

    assert still(frozen) == pytest.approx(1)
    assert still(trained) < 0.9
    assert not torch.equal(frozen["W_enc"], fresh.W_enc.data)
    found = json.loads((copied / paths.evaluation("topk") / "baseline.json").read_text())
    assert found["explained_variance"] < read_metrics(copied, "evaluate", "topk")["explained_variance"]
    assert "It learned its directions" in (copied / "reports/topk.html").read_text()


def test_without_a_wish_for_it_there_is_no_baseline(workbench: Path) -> None:
    for name in NAMES:
        verify(workbench / paths.baseline(name))
        assert [p.name for p in (workbench / paths.baseline(name)).iterdir()] == ["manifest.json"]


def test_an_sae_that_is_not_what_was_trained_is_told_of(
    workbench: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, copied: Path
) -> None:
    params = params_of(copied, lambda values: values["saes"]["topk"].update(training_tokens=20_480))
    with contextlib.chdir(copied), caplog.at_level("INFO", logger="sae_tools"):
        train.main(params, "topk")
        assert "read back from its folder: explained variance 0." in caplog.text
        save = saes.save

        def careless(sae: Any, folder: Path) -> None:
            sae.b_dec.data += 5
            save(sae, folder)
            sae.b_dec.data -= 5

        monkeypatch.setattr(saes, "save", careless)
        train.main(params, "topk")
    assert "it is not the SAE that was trained" in caplog.text


def test_a_release_worse_than_the_mean_is_told_of(
    copied: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saes.save(random_sae("standard", d_in=256, d_sae=64), tmp_path / "odd")
    params = params_of(copied, lambda values: values["saes"].update(topk={"release": str(tmp_path / "odd")}))
    with contextlib.chdir(copied), caplog.at_level("WARNING", logger="sae_tools"):
        train.main(params, "topk")
        evaluate.main(params, "topk")
    assert "worse than their mean does" in caplog.text
    assert "a missing begin token" in caplog.text
    verdict = json.loads((copied / paths.evaluation("topk") / "verdict.json").read_text())
    assert "worse than their mean" in verdict[0]


def test_with_nothing_stored_all_saes_train_in_one_go_and_are_those_from_disk(
    workbench: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    params = params_of(tmp_path, lambda values: values["harvest"].update(store="none"))
    with contextlib.chdir(tmp_path), caplog.at_level("WARNING", logger="sae_tools"):
        harvest.main(params)
        stream.main(params)
        for name in NAMES:
            train.main(params, name)
    shards = Shards(tmp_path / paths.ACTIVATIONS / params.site)
    assert shards.n_rows < Shards(workbench / paths.ACTIVATIONS / params.site).n_rows / 2
    for name in NAMES:
        # The default seeds of harvest and recipes are equal, so rows come in the order in which they would from disk.
        weights = paths.sae(name) / "sae_weights.safetensors"
        mine, theirs = (load_file(root / weights) for root in (tmp_path, workbench))
        assert all(mine[key].equal(theirs[key]) for key in theirs)
        assert read_metrics(tmp_path, "train", name)["loss"] == read_metrics(workbench, "train", name)["loss"]
        curves = [pd.read_csv(root / paths.plot("train", name), sep="\t") for root in (tmp_path, workbench)]
        assert curves[0].drop(columns="tokens_per_second").equals(curves[1].drop(columns="tokens_per_second"))
    assert not caplog.records


def test_with_nothing_stored_further_seeds_and_what_chance_gives_come_from_the_same_pass(tmp_path: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["harvest"].update(store="none", shard_rows=4096)
        values["dataset"].update(n_tokens=8_192)
        values["saes"]["topk"].update(seeds=2, d_sae=64, training_tokens=4_096)
        del values["saes"]["standard"]
        values["evaluate"].update(baseline=True)

    params = params_of(tmp_path, change)
    with contextlib.chdir(tmp_path):
        for stage in (harvest, stream):
            stage.main(params)
        for stage in (train, baseline):
            stage.main(params, "topk")
    assert "seeds" in read_metrics(tmp_path, "train", "topk")
    found = [saes.load(tmp_path / folder) for folder in (paths.sae("topk"), paths.sae("topk") / "seed-1")]
    assert not found[0].W_dec.equal(found[1].W_dec)
    start = saes.build("topk", 256, 64, {"k": 16}, {}, 0, "cpu")
    chance = saes.load(tmp_path / paths.baseline("topk"))
    torch.testing.assert_close(*(torch.nn.functional.normalize(sae.W_dec.detach()) for sae in (chance, start)))


@pytest.mark.parametrize(("device_map", "spreads"), [(None, 1), ("auto", 0)])
@pytest.mark.parametrize(
    ("stage", "work", "name"),
    [(harvest, "_harvest", []), (stream, "_train", []), (evaluate, "_evaluate", ["topk"]),
     (transfer, "_transfer", ["topk"]), (features, "_features", ["topk"])],
)  # fmt: skip
def test_a_model_that_is_spread_over_all_gpus_is_read_by_one_process(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: Any,
    work: str,
    name: list[str],
    device_map: str | None,
    spreads: int,
) -> None:
    def change(values: dict[str, Any]) -> None:
        values["language_model"].update(device_map=device_map)
        values["harvest"].update(store="none")

    spread: list[Any] = []
    monkeypatch.setattr(stage, "spread", lambda *to: spread.append(to))
    monkeypatch.setattr(stage, work, lambda *_: None)
    with contextlib.chdir(tmp_path):
        stage.main(params_of(tmp_path, change), *name)
    assert len(spread) == spreads


def test_an_sae_without_a_live_latent_is_evaluated_in_a_sentence(copied: Path) -> None:
    sae = saes.build("standard", 256, 64, {}, {}, 0, "cpu")
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    saes.save(sae, copied / "dead")
    params = params_of(copied, lambda values: values["saes"].update(topk={"release": str(copied / "dead")}))
    with contextlib.chdir(copied):
        for stage in (train, evaluate, transfer, features):
            stage.main(params, "topk")
        report.main(params)
    figures = json.loads((copied / paths.evaluation("topk") / "figures.json").read_text())
    assert np.isfinite(list(figures.values())).all()
    (only,) = json.loads((copied / paths.evaluation("topk") / "verdict.json").read_text())
    assert "No latent fires" in only
    assert "nan" not in text_of(copied / "reports/topk.html").lower().split()


def test_a_probe_table_is_refused_before_the_work_starts(copied: Path) -> None:
    (copied / "one.csv").write_text("prompt,target\n" + "a,1\n" * 20)
    before = contents(copied)
    for table, says in (("absent.csv", "does not exist"), ("one.csv", "two of at least 10")):
        with pytest.raises(WorkbenchError, match=says), contextlib.chdir(copied):
            evaluate.main(params_of(copied, lambda v, table=table: v["evaluate"].update(probes=[table])), "topk")
    after = contents(copied)
    assert {name: data for name, data in after.items() if name != "params.yaml"} == {
        name: data for name, data in before.items() if name != "params.yaml"
    }


def test_a_pretrained_sae_of_another_width_is_refused(copied: Path, tmp_path: Path) -> None:
    saes.save(random_sae("standard", d_in=32), tmp_path / "narrow")
    params = params_of(copied, lambda values: values["saes"].update(topk={"release": str(tmp_path / "narrow")}))
    with contextlib.chdir(copied), pytest.raises(WorkbenchError, match=r"32.*256|256.*32"):
        train.main(params, "topk")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("stage", "file"),
    [
        (train, paths.ACTIVATIONS / SMALL["site"] / "shard-00001.safetensors"),
        (evaluate, paths.TOKENS / "tokens.safetensors"),
        (evaluate, paths.sae("topk") / "sae_weights.safetensors"),
        (transfer, paths.sae("topk") / "cfg.json"),
        (transfer, paths.TOKENS / "tokens.safetensors"),
        (features, paths.sae("topk") / "sae_weights.safetensors"),
    ],
)
def test_a_damaged_input_is_named_and_outputs_stay(copied: Path, stage: Any, file: Path) -> None:
    damage(copied / file)
    before = contents(copied)
    with contextlib.chdir(copied), pytest.raises(ArtifactError, match=str(file)):
        stage.main(params_of(copied), "topk")
    assert contents(copied) == before | {"params.yaml": (copied / "params.yaml").read_bytes()}


def test_a_finetune_that_reads_other_tokens_is_refused_before_the_harvest(tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "shakespeare", tmp_path / "moved")
    tokenizer = json.loads((tmp_path / "moved/tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    names = sorted(ids, key=ids.get)
    tokenizer["model"]["vocab"] = dict(zip(names[:300] + names[300:][::-1], range(len(names)), strict=True))
    (tmp_path / "moved/tokenizer.json").write_text(json.dumps(tokenizer))
    params = params_of(tmp_path, lambda values: values["language_model"].update(finetuned=str(tmp_path / "moved")))
    with (
        contextlib.chdir(tmp_path),
        pytest.raises(WorkbenchError, match=r"only 7.\d% of the token ids .* 'moved|moved'"),
    ):
        harvest.main(params)
    assert not (tmp_path / "artifacts/tokens").exists()


def test_harvest_refuses_before_it_writes(tmp_path: Path) -> None:
    for change in (
        lambda values: values["dataset"].update(context_size=4096),
        lambda values: values["dataset"].update(n_tokens=10**12),
        lambda values: values["dataset"].update(text_column="body"),
    ):
        with contextlib.chdir(tmp_path), pytest.raises(WorkbenchError):
            harvest.main(params_of(tmp_path, change))
        assert {p.name for p in tmp_path.rglob("*") if p.is_file()} == {"params.yaml"}


def test_a_site_in_the_mlp_works_from_end_to_end(tmp_path: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["site"] = "blocks.1.mlp.hook_post"
        values["dataset"].update(n_tokens=4_096, held_out_tokens=1_024, positions="random")
        values["saes"] = {"one": values["saes"]["topk"] | {"training_tokens": 64, "batch_size": 16, "d_sae": 64}}
        values["features"].update(n_tokens=1_024)
        values["transfer"] = {}

    params = params_of(tmp_path, change)
    with contextlib.chdir(tmp_path):
        harvest.main(params)
        for stage in (train, evaluate, features):
            stage.main(params, "one")
    rows = verify(tmp_path / paths.ACTIVATIONS)[params.site]["n_rows"]
    assert 0 < rows <= 4_096 // 128
    assert np.isfinite(list(read_metrics(tmp_path, "evaluate", "one").values())).all()
