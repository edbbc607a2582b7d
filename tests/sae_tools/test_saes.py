"""What we save opens in SAELens and means the same there; changing nothing changes no bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sae_lens
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common.errors import ArtifactError, InputError, SettingError
from tests.conftest import ARCHITECTURES, REPO, random_sae

BATCH_WIDE = {"batchtopk", "matryoshka_batchtopk"}  # in training the k best of a whole batch, then a threshold
NORMALISATIONS = ["none", "layer_norm"]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(50, 32, generator=torch.Generator().manual_seed(9)) + 0.5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    saes.save(random_sae("topk"), tmp_path / "sae")
    return tmp_path / "sae"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_folder_opens_in_saelens_and_encodes_identically(tmp_path: Path, x: Tensor, architecture: str) -> None:
    sae = random_sae(architecture)
    weights = {name: t.clone() for name, t in sae.state_dict().items()}
    saes.save(sae, tmp_path)
    theirs, ours = sae_lens.SAE.load_from_disk(tmp_path), saes.load(tmp_path)
    assert torch.equal(ours.encode(x), theirs.encode(x))
    assert torch.equal(ours(x), theirs(x))
    assert not any(parameter.requires_grad for parameter in ours.parameters())
    after = sae.state_dict()
    assert all(torch.equal(t, after[name]) for name, t in weights.items())  # saving changes nothing
    if architecture in BATCH_WIDE:
        hidden = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=-1)
        expected = hidden * (hidden > 0.3)
    else:
        expected = sae.encode(x)
        torch.testing.assert_close(theirs(x), sae(x))
    assert (expected != 0).any()
    torch.testing.assert_close(theirs.encode(x), expected)


def test_standard_and_topk_encode_by_their_equations(tmp_path: Path, x: Tensor) -> None:
    for architecture in ("standard", "topk"):
        sae = random_sae(architecture)
        saes.save(sae, tmp_path / architecture)
        loaded = saes.load(tmp_path / architecture)
        f = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
        directions = sae.W_dec
        if architecture == "topk":
            norms = sae.W_dec.norm(dim=-1)  # features count in units of the activation, decoder rows are of length 1
            f, directions = f * norms, sae.W_dec / norms[:, None]
            f = torch.where(f >= f.topk(4).values[:, -1:], f, 0)
        torch.testing.assert_close(loaded.encode(x), f)
        torch.testing.assert_close(loaded(x), f @ directions + sae.b_dec)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_two_saves_give_equal_bytes(tmp_path: Path, architecture: str) -> None:
    for name in ("one", "two"):
        saes.save(random_sae(architecture), tmp_path / name)
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"cfg.json", "sae_weights.safetensors"}


def test_a_save_in_another_process_gives_equal_bytes(folder: Path, tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from sae_tools import saes
from tests.conftest import random_sae
saes.save(random_sae("topk"), Path({str(tmp_path / "other")!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPO)
    for file in ("cfg.json", "sae_weights.safetensors"):
        assert _sha256(folder / file) == _sha256(tmp_path / "other" / file)


def test_the_config_tells_the_origin_and_nothing_of_the_machine(tmp_path: Path) -> None:
    metadata = {"model_name": "some/model", "hook_name": "blocks.1.hook_resid_post", "context_size": 128}
    sae = saes.build("topk", 8, 16, {"k": 2}, metadata, 0, "cpu")
    saes.save(sae, tmp_path / "sae")
    config = json.loads((tmp_path / "sae" / "cfg.json").read_text())
    assert (config["architecture"], config["d_in"], config["d_sae"], config["k"]) == ("topk", 8, 16, 2)
    assert metadata.items() <= config["metadata"].items()
    assert config["device"] == "cpu"
    assert str(tmp_path) not in json.dumps(config)
    assert sae.cfg.device == "cpu"


def test_the_seed_alone_decides_the_first_weights() -> None:
    def first(seed: int) -> Tensor:
        torch.rand(3)
        weight: Tensor = saes.build("standard", 8, 16, {}, {}, seed, "cpu").W_dec
        return weight

    state = torch.random.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    torch.random.set_rng_state(state)
    expected = torch.rand(1)
    torch.random.set_rng_state(state)
    saes.build("standard", 8, 16, {}, {}, 0, "cpu")
    assert torch.equal(torch.rand(1), expected)  # the global generator is as it was


def test_a_folder_of_saes_is_a_release(folder: Path, x: Tensor) -> None:
    by_id, direct = saes.load(folder.parent, folder.name), saes.load(folder)
    assert torch.equal(by_id.encode(x), direct.encode(x))


def test_an_sae_of_the_heads_outputs_reads_them_side_by_side(tmp_path: Path, x: Tensor) -> None:
    metadata = {"hook_name": "blocks.1.attn.hook_z"}
    sae = saes.build("standard", 32, 64, {"reshape_activations": "hook_z"}, metadata, 0, "cpu")
    saes.save(sae, tmp_path / "sae")
    found = saes.load(tmp_path / "sae")
    torch.testing.assert_close(found.encode(x), torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc))
    assert found.decode(found.encode(x)).shape == x.shape


@pytest.mark.parametrize("missing", ["cfg.json", "sae_weights.safetensors"])
def test_a_folder_that_is_no_sae_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(ArtifactError, match=f"{folder} holds no SAE"):
        saes.load(folder)


@pytest.mark.parametrize(
    ("file", "data"),
    [
        ("cfg.json", b"{"),
        ("cfg.json", b"{}"),
        ("cfg.json", b'{"architecture": "nonsense", "d_in": 32, "d_sae": 64}'),
        ("sae_weights.safetensors", b"garbage"),
        ("sae_weights.safetensors", b"\x80\x04K\x01."),
    ],
)
def test_a_damaged_sae_is_refused(folder: Path, file: str, data: bytes) -> None:
    (folder / file).write_bytes(data)
    with pytest.raises(ArtifactError):
        saes.load(folder)


def test_an_sae_of_another_shape_than_its_config_is_refused(folder: Path) -> None:
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps(config | {"d_sae": 65}))
    with pytest.raises(ArtifactError):
        saes.load(folder)


def test_an_unknown_release_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match="'no-such-release', id 'no-such-id' cannot be loaded"):
        saes.load("no-such-release", "no-such-id")
    with pytest.raises(InputError, match="'gpt2-small-res-jb', id 'no-such-id' cannot be loaded"):
        saes.load("gpt2-small-res-jb", "no-such-id")


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("standard", {"normalize_activations": "nonsense"}),
        ("topk", {"nonsense": 1}),
        ("matryoshka_batchtopk", {"k": 4.0}),
    ],
)
def test_an_option_that_saelens_refuses_is_a_setting_error(architecture: str, options: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match=architecture):
        saes.build(architecture, 8, 64, options, {}, 0, "cpu")


def test_coefficients_grow_linearly_over_their_warm_up() -> None:
    sae = saes.build("standard", 8, 16, {"l1_coefficient": 3.0, "l1_warm_up_steps": 4}, {}, 0, "cpu")
    assert [saes.coefficients(sae, step)["l1"] for step in range(6)] == [0, 0.75, 1.5, 2.25, 3, 3]
    sae = saes.build("jumprelu", 8, 16, {"l0_coefficient": 3.0}, {}, 0, "cpu")
    assert saes.coefficients(sae, 0)["l0"] == 3


# --- edited ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_edit_that_changes_nothing_changes_no_bit(x: Tensor, architecture: str, normalisation: str) -> None:
    sae = random_sae(architecture, normalize_activations=normalisation)
    for acts in (x, x.reshape(5, 10, 32), x.bfloat16()):
        assert torch.equal(saes.edited(sae, acts, lambda f: f), acts)
        assert torch.equal(saes.edited(sae, acts, lambda f: f.clone()), acts)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_edit_changes_x_by_the_decoder_rows_of_what_it_changes(tmp_path: Path, x: Tensor, architecture: str) -> None:
    saes.save(random_sae(architecture), tmp_path)
    sae = saes.load(tmp_path)
    change = torch.zeros(64)
    change[[3, 40]] = torch.tensor([2.0, -1.5])
    new = saes.edited(sae, x, lambda f: f + change)
    rows = sae.W_dec * (sae.W_dec.norm(dim=-1, keepdim=True) ** -1 if _rescaled(sae) else 1)
    torch.testing.assert_close(new, x + 2 * rows[3] - 1.5 * rows[40], rtol=1e-4, atol=1e-4)


def test_with_layer_norm_an_edit_is_in_units_of_each_token_s_scale(x: Tensor) -> None:
    sae = random_sae("standard", normalize_activations="layer_norm")
    new = saes.edited(sae, x, lambda f: f + torch.eye(64)[7])
    centred = x - x.mean(dim=-1, keepdim=True)
    torch.testing.assert_close(new - x, centred.std(dim=-1, keepdim=True) * sae.W_dec[7], rtol=1e-3, atol=1e-4)


def _rescaled(sae: saes.SAE[Any]) -> bool:
    return bool(getattr(sae.cfg, "rescale_acts_by_decoder_norm", False))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
