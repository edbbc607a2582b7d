"""Bad params are refused at once, with the value and the remedy, and nothing is written."""

from __future__ import annotations

import copy
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.serialize import parse_yaml  # type: ignore[import-untyped]
from ruamel.yaml import YAML

from pipeline.params import _read_yaml, load, sae_named
from sae_tools.common.errors import SettingError, WorkbenchError
from sae_tools.common.settings import Pretrained, Recipe
from tests.conftest import REPO, TinyLM, save_tiny

Params = dict[str, Any]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_lm: TinyLM) -> Path:
    """A folder with a model of 3 layers, a text, and what is wrong with some others."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "model").symlink_to(tiny_lm("llama").name)
    files = {"no_weights": "model.safetensors", "no_tokenizer": "tokenizer.json", "no_config": "config.json"}
    for broken, file in files.items():
        save_tiny("llama", folder / broken, tiny_lm("llama").tokenizer)
        (folder / broken / file).unlink()
    others = {"deeper": {"num_hidden_layers": 4}, "wider": {"hidden_size": 40}, "foreign": {"model_type": "gpt_neox"},
              "curt": {"vocab_size": 300}}  # fmt: skip
    for name, change in others.items():
        shutil.copytree(tiny_lm("llama").name, folder / name)
        config = json.loads((folder / name / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | change))
    for name, base in {"adapter": "model", "stray": "deeper", "homeless": None}.items():
        (folder / name).mkdir()
        (folder / name / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        (folder / name / "adapter_model.safetensors").touch()
    (folder / "nothing").mkdir()
    (folder / "text.jsonl").write_text(json.dumps({"text": "once upon a time " * 400}) + "\n")
    (folder / "short.txt").write_text("once")
    (folder / "empty.jsonl").touch()
    (folder / "strange.docx").write_text("once")
    return folder


def good() -> Params:
    return {
        "language_model": {"base": "model", "finetuned": None, "device": "cpu"},
        "dataset": {"path": "text.jsonl", "context_size": 16, "n_tokens": 1000, "held_out_tokens": 100},
        "site": "blocks.1.hook_resid_post",
        "harvest": {},
        "saes": {"a": {"architecture": "topk", "d_sae": 64, "k": 4, "training_tokens": 1000}},
        "evaluate": {},
        "transfer": {},
        "features": {},
    }


def put(path: str, value: Any) -> Callable[[Params], None]:
    """Set a dotted key."""

    def change(params: Params) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            params = params[parent]
        params[last] = value

    return change


def several(*changes: Callable[[Params], None]) -> Callable[[Params], None]:
    def change(params: Params) -> None:
        for one in changes:
            one(params)

    return change


def drop(path: str) -> Callable[[Params], None]:
    def change(params: Params) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            params = params[parent]
        del params[last]

    return change


def write(folder: Path, values: Any) -> Path:
    path = folder / "params.yaml"
    path.write_text(values if isinstance(values, str) else json.dumps(values, allow_nan=True).replace("NaN", ".nan"))
    return path


PURSUIT = {"architecture": "matching_pursuit", "d_sae": 64, "training_tokens": 1000}
SECOND = {"path": "text.jsonl", "context_size": 32, "n_tokens": 9, "held_out_tokens": 9}
BAD: list[tuple[str, Callable[[Params], None], str, str]] = [
    # what is wrong, how, what the message names, the remedy in it
    ("a section missing", drop("harvest"), "no section harvest", "add it"),
    ("a section too many", put("zzz", {}), "zzz is not a section", "use one of"),
    ("a section misspelt", put("evalute", {}), "evalute", "did you mean 'evaluate'"),
    ("a section of another type", put("dataset", "text.jsonl"), "dataset is 'text.jsonl'", "a mapping"),
    ("a section of nothing", put("language_model", None), "language_model is None", "a mapping"),
    ("an unknown key", put("dataset.n_token", 5), "dataset.n_token ", "did you mean 'n_tokens'"),
    ("text for a number", put("dataset.n_tokens", "many"), "dataset.n_tokens is 'many'", "integer"),
    ("a quoted number", put("dataset.n_tokens", "1000"), "dataset.n_tokens is '1000'", "integer"),
    ("a float for a count", put("dataset.n_tokens", 1e3), "dataset.n_tokens is 1000.0", "integer"),
    ("a negative count", put("dataset.held_out_tokens", -1), "dataset.held_out_tokens is -1", "greater"),
    ("nothing to train on", put("dataset.n_tokens", 0), "dataset.n_tokens is 0", "greater"),
    ("nothing to evaluate on", put("dataset.held_out_tokens", 0), "dataset.held_out_tokens is 0", "greater"),
    ("a context of 1", put("dataset.context_size", 1), "dataset.context_size is 1", "greater"),
    ("a context longer than the model's", put("dataset.context_size", 65), "dataset.context_size is 65", "64"),
    ("an unknown choice", put("dataset.positions", "end"), "dataset.positions is 'end'", "'last'"),
    ("an unknown precision", put("language_model.dtype", "fp32"), "language_model.dtype is 'fp32'", "'float32'"),
    ("an unknown device", put("language_model.device", "gpu"), "language_model.device is 'gpu'", "cuda"),
    ("an unknown device map", put("language_model.device_map", "cpu"), "language_model.device_map is 'cpu'", "'auto'"),
    ("a layer too deep", put("site", "blocks.3.hook_resid_post"), "layer 3", "layers 0 to 2"),
    ("a negative layer", put("site", "blocks.-1.hook_resid_post"), "layer -1", "layers 0 to 2"),
    ("an unknown hook", put("site", "blocks.1.hook_resid_pst"), "blocks.1.hook_resid_pst", "hook_resid_post"),
    ("a module's path of no such form", put("site", "model.layers.1.mlp:out"), "'model.layers.1.mlp:out'", "give"),
    ("a site of another type", put("site", 2), "site is 2", "blocks.2.hook_resid_post"),
    ("no model there", put("language_model.base", "./absent"), "'./absent' does not exist", "Hub id"),
    ("no finetune there", put("language_model.finetuned", "/absent/x"), "'/absent/x' does not exist", "Hub id"),
    ("a model without weights", put("language_model.base", "no_weights"), "'no_weights'", "save_pretrained"),
    ("a model without tokenizer", put("language_model.base", "no_tokenizer"), "without its tokenizer", "save"),
    ("a tokenizer without model", put("language_model.base", "no_config"), "tokenizer without the model", "save"),
    ("an empty folder for a model", put("language_model.base", "nothing"), "'nothing' holds no model", "save"),
    ("a file for a model", put("language_model.base", "./text.jsonl"), "./text.jsonl", "folder"),
    ("no labels there", put("features.labels", "{sae}.csv"), "labels 'a.csv' do not exist", "features.labels to null"),
    ("labels of another type", put("features.labels", 3), "features.labels is 3", "string"),
    ("no text there", put("dataset.path", "absent.jsonl"), "'absent.jsonl' does not exist", "existing file"),
    ("an empty text", put("dataset.path", "empty.jsonl"), "'empty.jsonl' is empty", "with text"),
    ("too little text", put("dataset.path", "short.txt"), "4 bytes, too few for 1,100", "give more text"),
    ("a text of unknown kind", put("dataset.path", "strange.docx"), "'strange.docx'", ".jsonl"),
    ("a second text absent", put("transfer", {"dataset": {"path": "no.txt"}}), "'no.txt' does not exist", "existing"),
    ("a bad second text", put("transfer", {"dataset": {"path": "text.jsonl", "seed": -2}}), "seed is -2", "greater"),
    ("a finetune of another depth", put("language_model.finetuned", "deeper"), "'deeper' is 4 layers deep", "finetune"),
    ("a finetune of another width", put("language_model.finetuned", "wider"), "'wider' is 40 wide", "finetune"),
    ("a finetune of another family", put("language_model.finetuned", "foreign"), "'foreign' is a gpt_neox", "finetune"),
    ("a finetune of few tokens", put("language_model.finetuned", "curt"), "'curt' has 300 tokens", "finetune"),
    ("an adapter of another base", put("language_model.finetuned", "stray"),
     "'stray' is a finetune of another base: its adapter_config.json names 'deeper'", "give one of them"),
    ("an adapter of nothing", put("language_model.finetuned", "homeless"), "'homeless' does not name its base", "give"),
    ("texts of two contexts", put("transfer", {"adapt": {}, "dataset": SECOND}),
     "transfer.dataset.context_size is 32", "the same"),
    ("what can't be adapted", several(put("transfer.adapt", {}), put("saes.a", PURSUIT)), "'matching_pursuit'", "null"),
    ("no SAE", put("saes", {}), "saes is {}", "a mapping of names"),
    ("a list of SAEs", put("saes", [1]), "saes is [1]", "a mapping of names"),
    ("a name with a slash", put("saes", {"a/b": {}}), "saes.a/b", "use letters"),
    ("a name that climbs", put("saes", {"..": {}}), "saes...", "use letters"),
    ("a name with a shell in it", put("saes", {"a; rm": {}}), "saes.a; rm", "use letters"),
    ("a name like an option", put("saes", {"-a": {}}), "saes.-a", "use letters"),
    ("an unknown architecture", put("saes.a.architecture", "top-k"), "'top-k'", "did you mean"),
    ("another's option", put("saes.a.l1_coefficient", 1), "l1_coefficient is not a setting of topk", "did you mean"),
    ("k beyond d_sae", put("saes.a.k", 100), "saes.a.k is 100", "between 1 and d_sae = 64"),
    ("text for a rate", put("saes.a.lr", "1e-4"), "saes.a.lr is '1e-4'", "number"),
    ("a rate that is not a number", put("saes.a.lr", float("nan")), "saes.a.lr is nan", "finite"),
    ("a rate of 0", put("saes.a.lr", 0), "saes.a.lr is 0", "greater than 0"),
    ("no training tokens", drop("saes.a.training_tokens"), "saes.a.training_tokens is missing", "add it"),
    ("neither recipe nor release", put("saes.a", {"d_sae": 64}), "saes.a is", "architecture"),
    ("a release with a recipe's key", put("saes.a", {"release": "x", "k": 4}), "saes.a.k", "sae_id"),
    ("a window of 0", put("features.window", 0), "features.window is 0", "greater"),
    ("a batch of 0", put("harvest.batch_size", 0), "harvest.batch_size is 0", "greater"),
    ("a boolean for a count", put("evaluate.n_tokens", True), "evaluate.n_tokens is True", "integer"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "names", "remedy"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_params_are_refused_with_the_value_and_the_remedy(
    place: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Params], None], names: str, remedy: str
) -> None:
    params = good()
    change(params)
    monkeypatch.chdir(place)
    write(place, params)
    before = sorted(place.rglob("*"))
    with pytest.raises(WorkbenchError) as error:
        load()
    message = str(error.value)
    assert names in message
    assert remedy in message
    assert "\n" not in message
    assert sorted(place.rglob("*")) == before


TEXTS = {
    "empty": ("", "sections are expected"),
    "a list": ("- a\n", "sections are expected"),
    "no YAML": ("a: [1", "is not YAML"),
    "a tab": ("a:\n\tb: 1", "is not YAML"),
    "a key twice": ("site: a\nsite: b\n", "is not YAML"),
    "a Python object": ("a: !!python/object/apply:os.system ['touch hacked']\n", ""),
    "an unknown tag": ("a: !x 1\n", ""),
}


@pytest.mark.parametrize(("text", "says"), TEXTS.values(), ids=TEXTS)
def test_a_file_that_is_no_params_file_is_refused(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(WorkbenchError) as error:
        load(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["params.yaml"]


def test_an_absent_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"does not exist; run from the project's folder"):
        load(tmp_path / "params.yaml")


def test_good_params_become_settings(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    params = good() | {"saes": good()["saes"] | {"b": {"release": "some/where", "sae_id": "x"}}}
    write(place, params)
    read = load()
    assert (read.language_model.base, read.site) == ("model", "blocks.1.hook_resid_post")
    assert isinstance(read.saes["a"], Recipe)
    assert read.saes["b"] == Pretrained("some/where", "x")
    assert sae_named(read, "b") is read.saes["b"]
    with pytest.raises(SettingError, match=r"saes\.c does not exist"):
        sae_named(read, "c")


@pytest.mark.parametrize("model", ["model", "adapter"])
@pytest.mark.parametrize("site", ["model.layers.1.mlp", "model.layers.1:input", "blocks.1.hook_resid_post"])
def test_a_finetune_may_be_an_adapter_and_a_site_a_module(
    place: Path, monkeypatch: pytest.MonkeyPatch, model: str, site: str
) -> None:
    monkeypatch.chdir(place)
    params = good()
    params["language_model"]["finetuned"], params["site"] = model, site
    write(place, params)
    assert load().site == site


NUMBERS = [
    "1e-4", "1E-4", "1e3", "1_000_000", "0.0001", ".5", "5.", "0123", "0o17", "0x1F", "1:30", "+3", ".inf", ".nan",
]  # fmt: skip
WORDS = ["no", "yes", "on", "null", "~", "", "true", "False", "2026-01-01", "'1e-4'", "[1, 2]", "{a: 1}", "a: 1"]


@pytest.mark.parametrize("text", NUMBERS + WORDS)
def test_values_are_read_as_dvc_reads_them(tmp_path: Path, text: str) -> None:
    source = f"key: {text}\n" if ": " not in text else f"key:\n  {text}\n"
    path = write(tmp_path, source)
    ours, theirs = _read_yaml(path)["key"], parse_yaml(source, path)["key"]
    assert repr(ours) == repr(theirs)
    assert type(ours) is type(theirs)


def test_a_rate_written_as_1e_4_is_a_number(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    text = json.dumps(good()).replace('"training_tokens": 1000', '"training_tokens": 1_000, "lr": 1e-4')
    write(place, text)
    recipe = load().saes["a"]
    assert isinstance(recipe, Recipe)
    assert (recipe.lr, recipe.training_tokens) == (0.0001, 1000)


# --- the files in the repository -------------------------------------------------------------------------------------


def test_the_default_params_are_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPO)
    params = load()
    assert {"topk", "standard"} <= set(params.saes)
    assert params.transfer.dataset is not None


@pytest.mark.parametrize("preset", sorted((REPO / "presets").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_preset_is_good_but_for_the_paths_to_fill_in(
    place: Path, monkeypatch: pytest.MonkeyPatch, preset: Path
) -> None:
    values = copy.deepcopy(YAML(typ="safe", pure=True).load(preset))
    values["language_model"] |= {"base": "model", "finetuned": None}
    values["dataset"] |= {"path": "some-user/some-dataset", "context_size": 16}
    values["transfer"].pop("dataset", None)
    values["site"] = re.sub(r"blocks\.\d+", "blocks.1", values["site"])
    monkeypatch.chdir(place)
    write(place, values)
    load()


# --- as a user runs it -----------------------------------------------------------------------------------------------


def run(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run `python -m <arguments>` in a folder; the result and its processor seconds, which other jobs don't stretch."""
    start = _child_seconds()
    result = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    return result, _child_seconds() - start


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(
    ("stage", "change", "names"),
    [
        (["pipeline.harvest"], put("site", "blocks.7.hook_resid_post"), "layers 0 to 2"),
        (["pipeline.harvest"], put("language_model.base", "no_tokenizer"), "without its tokenizer"),
        (["pipeline.train", "a"], put("saes.a.lr", "fast"), "saes.a.lr is 'fast'"),
        (["pipeline.train", "b"], lambda _: None, "saes.b does not exist"),
        (["pipeline.train"], lambda _: None, "one name of saes"),
        (["pipeline.harvest", "a"], lambda _: None, "no argument"),
    ],
)
def test_a_stage_refuses_bad_params_before_any_work(
    place: Path, stage: list[str], change: Callable[[Params], None], names: str
) -> None:
    params = good()
    change(params)
    write(place, params)
    before = sorted(place.rglob("*"))
    result, seconds = run(place, *stage)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert names in result.stderr
    assert sorted(place.rglob("*")) == before
    assert seconds < 2  # 0.4 measured
