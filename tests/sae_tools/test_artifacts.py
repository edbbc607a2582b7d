"""A folder is whole or absent, also after an error or a kill in the middle, and damage is found and named."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sae_tools.artifacts import new_folder, verify, write_json
from sae_tools.errors import ArtifactError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "out" / "thing"
    with new_folder(target, {"what": "a test"}) as new:
        (new / "a.bin").write_bytes(b"0123456789")
        (new / "deep").mkdir()
        (new / "deep" / "b.txt").write_text("hello")
    return target


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_manifest_holds_every_file_s_size_and_sha256(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["files"] == {
        "a.bin": {"size": 10, "sha256": hashlib.sha256(b"0123456789").hexdigest()},
        "deep/b.txt": {"size": 5, "sha256": hashlib.sha256(b"hello").hexdigest()},
    }
    assert verify(folder) == {"what": "a test"}
    assert names(folder.parent) == {"thing"}


def test_a_new_folder_replaces_the_old_one_whole(folder: Path) -> None:
    with new_folder(folder) as new:
        (new / "c.bin").write_bytes(b"c")
        assert (folder / "a.bin").exists()  # until the very end
    assert names(folder) == {"c.bin", "manifest.json"}


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with new_folder(tmp_path / name, {"b": 1, "a": [1, 2]}) as new:
            (new / "x").write_text("x")
    assert (tmp_path / "one/manifest.json").read_bytes() == (tmp_path / "two/manifest.json").read_bytes()


def test_an_error_inside_leaves_the_old_folder_and_no_temporary_one(folder: Path) -> None:
    def write_half() -> None:
        with new_folder(folder) as new:
            (new / "half").write_text("h")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    verify(folder)
    assert names(folder) == {"a.bin", "deep", "manifest.json"}
    assert names(folder.parent) == {"thing"}


def test_a_kill_inside_leaves_the_old_folder(folder: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from sae_tools.artifacts import new_folder
with new_folder(Path({str(folder)!r})) as new:
    (new / "half").write_text("h")
    print("ready", flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    verify(folder)
    assert names(folder) == {"a.bin", "deep", "manifest.json"}
    with new_folder(folder) as new:  # and the next run is not in its way
        (new / "c").write_text("c")
    assert names(folder) == {"c", "manifest.json"}
    assert names(folder.parent) == {"thing"}  # what the killed run left is gone


def test_a_folder_moved_aside_by_a_killed_run_is_put_back(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as dead:
        pass
    folder.rename(folder.parent / f".thing.old-{dead.pid}")

    def fail() -> None:
        with new_folder(folder):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    verify(folder)
    assert names(folder.parent) == {"thing"}


def test_a_living_run_s_folder_is_left_alone(folder: Path) -> None:
    theirs = folder.parent / ".thing.tmp-1"
    theirs.mkdir()
    with new_folder(folder) as new:
        (new / "c").write_text("c")
    assert theirs.is_dir()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a flipped bit": ("a.bin", flip),
    "a flipped bit below": ("deep/b.txt", flip),
    "a truncated file": ("a.bin", lambda path: path.write_bytes(path.read_bytes()[:-1])),
    "an empty file": ("a.bin", lambda path: path.write_bytes(b"")),
    "a longer file": ("a.bin", lambda path: path.write_bytes(path.read_bytes() + b"0")),
    "a file gone": ("deep/b.txt", Path.unlink),
    "no manifest": ("manifest.json", Path.unlink),
    "half a manifest": ("manifest.json", lambda path: path.write_text(path.read_text()[:20])),
    "another manifest": ("manifest.json", lambda path: path.write_text('{"files": 1}')),
    "a list for a manifest": ("manifest.json", lambda path: path.write_text("[]")),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_the_file_named(folder: Path, what: str) -> None:
    name, damage = DAMAGE[what]
    damage(folder / name)
    with pytest.raises(ArtifactError) as error:
        verify(folder)
    assert str(folder / name) in str(error.value)
    assert "dvc repro" in str(error.value)


def test_without_contents_only_sizes_are_compared(folder: Path) -> None:
    flip(folder / "a.bin")
    verify(folder, contents=False)
    (folder / "a.bin").write_bytes(b"short")
    with pytest.raises(ArtifactError, match="10 bytes but 5 bytes"):
        verify(folder, contents=False)


def test_an_absent_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=f"{tmp_path / 'absent'} does not exist"):
        verify(tmp_path / "absent")


def test_json_is_sorted_and_refuses_nan_leaving_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    write_json(path, {"b": 1, "a": 0.1})
    assert path.read_text() == '{\n  "a": 0.1,\n  "b": 1\n}\n'
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 0.1, "b": 1}
    assert names(path.parent) == {"x.json"}


def test_files_are_readable_by_others(folder: Path) -> None:
    assert (folder / "a.bin").stat().st_mode & 0o777 == 0o644


def test_verifying_is_fast_enough_to_run_before_every_use(tmp_path: Path) -> None:
    with new_folder(tmp_path / "big") as new:
        (new / "x").write_bytes(bytes(50_000_000))
    start = time.process_time()
    verify(tmp_path / "big")
    assert time.process_time() - start < 1  # 0.05 measured
