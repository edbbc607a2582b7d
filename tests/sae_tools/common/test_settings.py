"""Settings: checked by type and range, refused with the name, the value and the remedy."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest
from sae_lens.registry import SAE_TRAINING_CLASS_REGISTRY
from sae_lens.saes.sae import TrainingSAEConfig

from sae_tools.common import architectures, settings
from sae_tools.common.errors import SettingError
from sae_tools.common.read_settings import read, read_sae
from sae_tools.common.settings import Dataset, Features, Models, Pretrained, Recipe, Transfer
from tests.conftest import OF_SAELENS

COMMON = {"apply_b_dec_to_input", "normalize_activations", "decoder_init_norm"}
RECIPE = {"architecture": "topk", "d_sae": 64, "k": 4, "training_tokens": 1000}


def test_architectures_are_saelens_s_trainable_ones() -> None:
    theirs = {name for name, (cls, _) in SAE_TRAINING_CLASS_REGISTRY.items() if cls.__module__.startswith("sae_lens.")}
    assert set(architectures.ARCHITECTURES) == theirs == set(OF_SAELENS)


@pytest.mark.parametrize("architecture", SAE_TRAINING_CLASS_REGISTRY)
def test_an_architecture_s_settings_are_saelens_s(architecture: str) -> None:
    _, config = SAE_TRAINING_CLASS_REGISTRY[architecture]
    shared = {field.name for field in dataclasses.fields(TrainingSAEConfig)} | {"use_sparse_activations"}
    own = {field.name: field.type for field in dataclasses.fields(config) if field.name not in shared}
    ours = architectures.ARCHITECTURES[architecture]
    assert set(ours) == set(own) | COMMON
    for name, kind in own.items():
        if isinstance(kind, type):
            assert ours[name] is (list if "list" in str(kind) else kind), name


def test_every_setting_has_a_sentence_of_explanation() -> None:
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(settings))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            fields = [i for i, item in enumerate(node.body) if isinstance(item, ast.AnnAssign)]
            for i in fields:
                after = node.body[i + 1] if i + 1 < len(node.body) else None
                assert isinstance(after, ast.Expr), f"{node.name}: {ast.unparse(node.body[i])} is not explained"


def test_a_recipe_keeps_the_architecture_s_own_settings_apart() -> None:
    recipe = read_sae(RECIPE | {"lr": 1, "normalize_activations": "none"}, "saes.a")
    assert isinstance(recipe, Recipe)
    assert (recipe.d_sae, recipe.training_tokens, recipe.lr) == (64, 1000, 1.0)
    assert recipe.architecture_options == {"k": 4, "normalize_activations": "none"}


def test_a_release_stands_for_a_pretrained_sae() -> None:
    assert read_sae({"release": "a/b", "sae_id": "c"}, "saes.a") == Pretrained("a/b", "c")
    assert read_sae({"release": "a/b"}, "saes.a") == Pretrained("a/b", "")


def test_settings_are_frozen() -> None:
    models = read(Models, {"base": "x"}, "language_model")
    with pytest.raises(dataclasses.FrozenInstanceError):
        models.base = "y"  # type: ignore[misc]


def test_settings_in_settings_are_read_too() -> None:
    transfer = read(Transfer, {"dataset": {"path": "x.txt"}, "n_tokens": 5}, "transfer")
    assert transfer.dataset == Dataset(path="x.txt")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"lr": 0}, "saes.a.lr is 0"),
        ({"lr": -1e-3}, "saes.a.lr is -0.001"),
        ({"lr": float("nan")}, "saes.a.lr is nan"),
        ({"lr": float("inf")}, "saes.a.lr is inf"),
        ({"lr": "1e-4"}, "saes.a.lr is '1e-4'"),
        ({"lr": True}, "saes.a.lr is True"),
        ({"lr": None}, "saes.a.lr is None"),
        ({"d_sae": 0}, "saes.a.d_sae is 0"),
        ({"d_sae": -4}, "saes.a.d_sae is -4"),
        ({"d_sae": 64.0}, "saes.a.d_sae is 64.0"),
        ({"d_sae": "64"}, "saes.a.d_sae is '64'"),
        ({"d_sae": True}, "saes.a.d_sae is True"),
        ({"d_sae": [64]}, "saes.a.d_sae is [64]"),
        ({"d_sea": 64}, "saes.a.d_sea is not a setting of topk; did you mean 'd_sae'"),
        ({"l1_coefficient": 1.0}, "saes.a.l1_coefficient is not a setting of topk"),
        ({"k": 0}, "saes.a.k is 0"),
        ({"k": 65}, "saes.a.k is 65, but it should lie between 1 and d_sae = 64"),
        ({"k": 4.5}, "saes.a.k is 4.5"),
        ({"k": True}, "saes.a.k is True"),
        ({"k": None}, "saes.a.k is None"),
        ({"training_tokens": 0}, "saes.a.training_tokens is 0"),
        ({"batch_size": 0}, "saes.a.batch_size is 0"),
        ({"seed": -1}, "saes.a.seed is -1"),
        ({"product_dtype": "float16"}, "saes.a.product_dtype is 'float16'"),
        ({"resample_every": 100}, "saes.a.resample_every is 100, but only standard SAEs are resampled"),
        ({"target_l0": 30}, "saes.a.target_l0 is 30, but topk has no sparsity coefficient to steer"),
        ({"target_l0": -1.0}, "saes.a.target_l0 is -1.0"),
        ({"seeds": 0}, "saes.a.seeds is 0"),
        ({"architecture": "my.own.sae"}, "saes.a.architecture is 'my.own.sae'"),
        (
            {"architecture": "sae_tools.training.variants.anneled"},
            "saes.a.architecture is 'sae_tools.training.variants.anneled'",
        ),
        ({"lr_warm_up_steps": -1}, "saes.a.lr_warm_up_steps is -1"),
        ({"architecture": "topkk"}, "saes.a.architecture is 'topkk'; did you mean 'topk'"),
        ({"architecture": None}, "saes.a.architecture is "),
        ({"architecture": ["topk"]}, "saes.a.architecture is "),
        ({"architecture_options": {"k": 4}}, "architecture_options"),
        ({"rescale_acts_by_decoder_norm": 1}, "saes.a.rescale_acts_by_decoder_norm is 1"),
        ({"aux_loss_coefficient": float("nan")}, "saes.a.aux_loss_coefficient is nan"),
        ({"aux_loss_coefficient": float("inf")}, "saes.a.aux_loss_coefficient is inf"),
        ({"decoder_init_norm": -1.0}, "saes.a.decoder_init_norm is -1.0"),
        ({"normalize_activations": "layernorm"}, "saes.a.normalize_activations is 'layernorm'"),
        # SAELens' trainer does this one; ours does not, so it must not be taken silently.
        ({"normalize_activations": "covariance_whitening"}, "saes.a.normalize_activations is 'covariance_whitening'"),
    ],
    ids=str,
)
def test_a_bad_recipe_is_refused(values: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError) as error:
        read_sae(RECIPE | values, "saes.a")
    assert says in str(error.value)
    assert len(str(error.value)) > len(says)  # and a remedy or what is expected


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        ({"architecture": "standard", "l1_coefficient": -1.0}, "l1_coefficient is -1.0"),
        ({"architecture": "standard", "l1_warm_up_steps": -1}, "l1_warm_up_steps is -1"),
        ({"architecture": "batchtopk", "k": float("nan")}, "k is nan"),
        ({"architecture": "jumprelu", "jumprelu_sparsity_loss_mode": "a"}, "jumprelu_sparsity_loss_mode is 'a'"),
        ({"architecture": "jumprelu", "jumprelu_bandwidth": 0.0}, "jumprelu_bandwidth is 0.0"),
        ({"architecture": "matryoshka_batchtopk"}, "matryoshka_widths is "),
        ({"architecture": "matryoshka_batchtopk", "matryoshka_widths": 16}, "matryoshka_widths is 16"),
        ({"architecture": "matryoshka_batchtopk", "matryoshka_widths": ["a"]}, "matryoshka_widths is ['a']"),
        ({"architecture": "matryoshka_batchtopk", "matryoshka_widths": [32, 16]}, "matryoshka_widths is [32, 16]"),
        ({"architecture": "matryoshka_batchtopk", "matryoshka_widths": [16, 128]}, "matryoshka_widths is [16, 128]"),
    ],
    ids=str,
)
def test_a_bad_option_of_another_architecture_is_refused(recipe: dict[str, Any], says: str) -> None:
    k = {"k": 4.0} if "topk" in recipe["architecture"] else {}
    values = {"d_sae": 64, "training_tokens": 1000, **k, **recipe}
    with pytest.raises(SettingError) as error:
        read_sae(values, "saes.a")
    assert f"saes.a.{says}" in str(error.value)


@pytest.mark.parametrize("values", [None, 3, [], "topk", {}, {"d_sae": 4}])
def test_an_sae_that_is_neither_recipe_nor_release_is_refused(values: Any) -> None:
    with pytest.raises(SettingError, match=r"saes.a is .*`architecture`.* or a pretrained `release`"):
        read_sae(values, "saes.a")


@pytest.mark.parametrize("missing", ["d_sae", "training_tokens"])
def test_a_missing_setting_is_named(missing: str) -> None:
    with pytest.raises(SettingError, match=f"saes.a.{missing} is missing; add it"):
        read_sae({key: value for key, value in RECIPE.items() if key != missing}, "saes.a")


@pytest.mark.parametrize(
    ("cls", "values", "says"),
    [
        (Models, {}, "x.base is missing"),
        (Models, {"base": ""}, "x.base is ''"),
        (Models, {"base": 3}, "x.base is 3"),
        (Models, {"base": "a", "dtype": "float64"}, "x.dtype is 'float64'"),
        (Models, {"base": "a", "fintuned": "b"}, "x.fintuned is not a known setting; did you mean 'finetuned'?"),
        (Models, {"base": "a", "device": "gpu"}, "x.device is 'gpu'"),
        (Dataset, {"path": "a", "positions": "frist"}, "x.positions is 'frist'"),
        (Dataset, {"path": "a", "context_size": 1}, "x.context_size is 1"),
        (Dataset, {"path": "a", "n_tokens": 1e6}, "x.n_tokens is 1000000.0"),
        (Dataset, {"path": None}, "x.path is None"),
        (Transfer, {"dataset": {"path": "a", "seed": -1}}, "x.dataset.seed is -1"),
        (Transfer, {"dataset": {"pth": "a"}}, "x.dataset"),
        (Transfer, {"dataset": "a.txt"}, "x.dataset is 'a.txt'"),
        (Features, {"n_top": 0}, "x.n_top is 0"),
        (Features, None, "x is None, but a mapping"),
        (Features, [1], "x is [1], but a mapping"),
    ],
    ids=str,
)
def test_a_bad_section_is_refused(cls: type, values: Any, says: str) -> None:
    with pytest.raises(SettingError) as error:
        read(cls, values, "x")
    assert says in str(error.value)


def test_nothing_slow_is_imported() -> None:
    modules = "sae_tools.common.settings, sae_tools.models.sources, sae_tools.models.sites"
    code = f"import sys, {modules}; from sae_tools import Recipe; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "False\n"
