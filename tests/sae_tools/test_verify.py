"""Sound folders pass; every kind of damage, also one that a new manifest covers up, is told in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_tools import saes
from sae_tools.activations.shards import Shard
from sae_tools.common.artifacts import MANIFEST, commit, new_folder
from sae_tools.common.errors import ArtifactError
from sae_tools.verify import check, check_sae, main
from tests.conftest import ARCHITECTURES, REPO, random_sae

SITE = "blocks.1.hook_resid_post"
SHARD = f"{SITE}/shard-00001.safetensors"
WEIGHTS = "sae_weights.safetensors"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acts/: three shards of 10 rows; sae/: a TopK SAE; both artifacts."""
    folder = tmp_path_factory.mktemp("sound")
    with new_folder(folder / "acts", {SITE: {"n_rows": 30, "n_shards": 3}}) as new:
        for number in range(3):
            shard = Shard(10, 4, torch.bfloat16, 0, number)
            shard.add(torch.randn(10, 4).bfloat16())
            shard.write(new / SITE)
    with new_folder(folder / "sae", {"sae": "topk"}) as new:
        saes.save(random_sae("topk"), new)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "copy"))


def test_sound_folders_are_named_for_what_they_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder / "acts"), str(folder / "sae")]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        f"ok: {folder}/acts (activations, 30 rows; 7 files, 0.0 MB)",
        f"ok: {folder}/sae (topk SAE, 32 -> 64; 3 files, 0.0 MB)",
    ]
    assert err == ""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_that_saelens_saves_is_sound(architecture: str, tmp_path: Path) -> None:
    sae = random_sae(architecture)
    saes.save(sae, tmp_path / "inference")
    assert "SAE, 32 -> 64" in check_sae(tmp_path / "inference")
    sae.save_model(tmp_path / "training")
    assert "SAE, 32 -> 64" in check_sae(tmp_path / "training")


def test_an_sae_from_elsewhere_needs_no_manifest(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "sae" / MANIFEST).unlink()
    assert main([str(folder / "sae")]) == 0
    assert "no manifest; tensors and cfg.json are sound" in capsys.readouterr().out
    with pytest.raises(ArtifactError, match=r"manifest\.json is missing"):
        check(folder / "sae")  # but one of ours does


def flip(path: Path, at: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def swap(path: Path) -> None:
    other = path.with_name("shard-00000.safetensors")
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


def edit(name: str, value: Any) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))

    return change


def resave(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return apply


def header(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        data = path.read_bytes()
        end = 8 + int.from_bytes(data[:8], "little")
        new = change(data[8:end])
        path.write_bytes(len(new).to_bytes(8, "little") + new + data[end:])

    return apply


def poison(value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: next(iter(tensors.values())).view(-1)[-1:].fill_(value)


OPEN: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a flipped bit": (f"acts/{SHARD}", flip, "damaged: sha256 is"),
    "a flipped bit in the header": (f"acts/{SHARD}", lambda path: flip(path, 20), "damaged: sha256 is"),
    "a truncated shard": (f"acts/{SHARD}", lambda path: path.write_bytes(path.read_bytes()[:-8]), "should have 1"),
    "a missing shard": (f"acts/{SHARD}", Path.unlink, "bytes but nothing is there"),
    "an extra file": ("acts/more.bin", lambda path: path.write_text("x"), "extra file"),
    "swapped shards": (f"acts/{SHARD}", swap, "damaged: sha256 is"),
    "an edited manifest": (
        f"acts/{MANIFEST}",
        lambda path: path.write_text(path.read_text().replace('size": 1', 'size": 2')),
        "should have 2",
    ),
    "no manifest": (f"acts/{MANIFEST}", Path.unlink, "missing or not a manifest"),
    "a folder that is none": ("acts", shutil.rmtree, "does not exist"),
    "an empty weights file": (f"sae/{WEIGHTS}", lambda path: path.write_bytes(b""), "0 bytes"),
}  # fmt: skip
"""Damage that the manifest tells: the file, what is done to it, and words of the answer."""

COVERED: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "NaN": (f"acts/{SHARD}", resave(poison(float("nan"))), "acts should be finite"),
    "infinity in a weight": (f"sae/{WEIGHTS}", resave(poison(-float("inf"))), "should be finite"),
    "a shard of another type": (
        f"acts/{SHARD}", resave(lambda t: t.update(acts=t["acts"].float())), "one type and width",
    ),
    "a shard of another width": (
        f"acts/{SHARD}", resave(lambda t: t.update(acts=t["acts"][:, :3].clone())), "one type and width",
    ),
    "a shard of fewer rows": (f"acts/{SHARD}", resave(lambda t: t.update(acts=t["acts"][:9])), "10 rows as its rec"),
    "another tensor": (f"acts/{SHARD}", resave(lambda t: t.update(more=torch.ones(2))), "it should hold acts"),
    "a shard less": (
        f"acts/{SHARD}",
        lambda path: [file.unlink() for file in (path, path.with_suffix(".json"))],
        "should be {'n_rows': 30",
    ),
    "swapped shards": (f"acts/{SHARD}", swap, "as its record says, but is"),
    "no record": ("acts/" + SHARD.replace("safetensors", "json"), Path.unlink, "no record of a shard"),
    "no tensor file": (f"acts/{SHARD}", lambda path: path.write_text("hello, world"), "should be a safetensors file"),
    "a tensor named twice": (
        f"acts/{SHARD}", header(lambda text: text.rstrip()[:-1] + b"," + text.rstrip()[1:]), "the key 'acts' twice",
    ),
    "a type unknown": (f"acts/{SHARD}", header(lambda text: text.replace(b"BF16", b"QQ16")), "describes tensor 'acts'"),
    "a negative size": (f"acts/{SHARD}", header(lambda text: text.replace(b"[10,4]", b"[-10,-4]")), "describes tensor"),
    "a gap": (f"acts/{SHARD}", header(lambda text: text.replace(b"[0,80]", b"[8,88]")), "a gap or overlap at byte 0"),
    "bytes too many": (f"acts/{SHARD}", lambda path: path.write_bytes(path.read_bytes() + b"12"), "follow the header"),
    "a header without end": (f"acts/{SHARD}", lambda path: path.write_bytes(b"\xff" * 100), "header would have"),
    "a deep header": (f"acts/{SHARD}", header(lambda text: b"[" * 100_000), "nested too deeply"),
    "another k": ("sae/cfg.json", edit("k", 65), "k should be a number from 1 to d_sae = 64, but is 65"),
    "a negative width": ("sae/cfg.json", edit("d_in", -32), "d_in should be a whole number from 1 to 65536"),
    "a width beyond all": ("sae/cfg.json", edit("d_sae", 2**30), "d_sae should be a whole number from 1 to 67108864"),
    "a width in words": ("sae/cfg.json", edit("d_sae", "64"), "but is '64'"),
    "a true width": ("sae/cfg.json", edit("d_in", True), "but is True"),
    "another d_sae": ("sae/cfg.json", edit("d_sae", 128), "W_dec should be (128, 32) in a topk SAE, but is (64, 32)"),
    "another architecture": ("sae/cfg.json", edit("architecture", "jumprelu"), "threshold should be (64,)"),
    "no architecture": ("sae/cfg.json", edit("architecture", None), "name an SAE's architecture"),
    "another type of weights": ("sae/cfg.json", edit("dtype", "bfloat16"), "BF16 as cfg.json says, but is F32"),
    "NaN in cfg.json": ("sae/cfg.json", edit("x", float("nan")), "number NaN"),
    "1e999 in cfg.json": ("sae/cfg.json", lambda path: path.write_text('{"d_in": 1e999}'), "1e999"),
    "a key twice": ("sae/cfg.json", lambda path: path.write_text('{"d_in": 1, "d_in": 2}'), "the key 'd_in' twice"),
    "a cfg.json too large": ("sae/cfg.json", edit("x", "y" * 70_000), "at most 64000 bytes, but it has 7"),
    "a cfg.json that is a list": ("sae/cfg.json", lambda path: path.write_text("[]"), "architecture"),
    "cfg.json not in UTF-8": ("sae/cfg.json", lambda path: path.write_bytes(b"\xff{}"), "should be JSON"),
    "a deep cfg.json": ("sae/cfg.json", lambda path: path.write_text("[" * 60_000), "nested too deeply"),
    "a weight less": (f"sae/{WEIGHTS}", resave(lambda t: t.pop("b_dec")), "b_dec should be (32,)"),
    "a weight more": (f"sae/{WEIGHTS}", resave(lambda t: t.update(z=torch.ones(1))), "z should be absent"),
    "no weights": (f"sae/{WEIGHTS}", Path.unlink, "no such file"),
}  # fmt: skip
"""Damage under a manifest and records that were made after it."""


def refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main([str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith(f"error: {folder}")
    assert "Traceback" not in err
    assert "; " in err
    assert "dvc repro" in err
    return err


@pytest.mark.parametrize("what", OPEN)
def test_damage_is_told_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    name, damage, words = OPEN[what]
    damage(folder / name)
    assert words in refused(folder / name.split("/")[0], capsys)


@pytest.mark.parametrize("what", COVERED)
def test_damage_under_a_new_manifest_is_told_too(folder: Path, capsys: pytest.CaptureFixture[str], what: str) -> None:
    name, damage, words = COVERED[what]
    kind = folder / name.split("/")[0]
    damage(folder / name)
    record = folder / "acts" / SHARD.replace("safetensors", "json")
    if what not in ("swapped shards", "a shard less", "no record"):
        digest = hashlib.sha256((folder / "acts" / SHARD).read_bytes()).hexdigest()
        record.write_text(json.dumps({"n_rows": 10, "sha256": digest}))
    about = json.loads((kind / MANIFEST).read_text())["about"]
    kind.rename(folder / "work")
    commit(folder / "work", kind, about)
    assert words in refused(kind, capsys)


def test_the_command_goes_on_after_a_bad_folder_and_helps(folder: Path) -> None:
    command = [sys.executable, "-m", "sae_tools.verify"]
    done = subprocess.run([*command, "nope", str(folder / "sae")], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: nope does not exist; run `dvc repro` to make it again.\n"
    assert done.stdout.startswith("ok: ")
    helped = subprocess.run([*command, "--help"], cwd=REPO, capture_output=True, text=True)
    assert helped.returncode == 0
    assert "artifacts/activations" in helped.stdout
