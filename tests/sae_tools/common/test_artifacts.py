"""A folder is whole or absent, also after an error or a kill in the middle, and damage is found and named."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from safetensors import SafetensorError

from sae_tools.common import artifacts
from sae_tools.common.artifacts import (
    commit,
    lock,
    new_file,
    new_folder,
    require_space,
    verify,
    workspace,
    write_json,
    writing,
)
from sae_tools.common.errors import ArtifactError, InputError


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
from sae_tools.common.artifacts import new_folder
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
    "a deep manifest": ("manifest.json", lambda path: path.write_text("[" * 100_000)),
    "an endless size": ("manifest.json", lambda path: path.write_text(path.read_text().replace("10", "1e999"))),
    "a name outside": ("manifest.json", lambda path: path.write_text(path.read_text().replace("a.bin", "../a.bin"))),
    "a file without a size": ("manifest.json", lambda path: path.write_text(path.read_text().replace("size", "sise"))),
    "an extra file": ("deep/c.txt", lambda path: path.write_text("c")),
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


def test_digests_that_are_known_are_not_computed_again(tmp_path: Path) -> None:
    (tmp_path / "work" / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (tmp_path / "work" / name).write_text(name)
    commit(tmp_path / "work", tmp_path / "target", {"x": 1}, {"deep/b": "known"})
    files = json.loads((tmp_path / "target" / "manifest.json").read_text())["files"]
    assert files["deep/b"] == {"size": 6, "sha256": "known"}
    assert files["a"]["sha256"] == hashlib.sha256(b"a").hexdigest()


def test_temporary_files_of_a_killed_writer_are_not_part_of_it(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    for name in ("a", ".a.tmp-1", ".tmpXy12"):
        (tmp_path / "work" / name).write_text(name)
    commit(tmp_path / "work", tmp_path / "target", {})
    assert names(tmp_path / "target") == {"a", "manifest.json"}


def test_a_workspace_outlives_an_error_and_is_found_by_the_same_work_only(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "thing"

    def work(identity: dict[str, object], fail: bool) -> set[str]:
        with workspace(target, identity) as folder:
            found = names(folder)
            (folder / "part").write_text(str(identity))
            if fail:
                raise ZeroDivisionError
            commit(folder, target, {})
        return found

    for identity in ({"a": 1, "b": [2]}, {"a": 2}):
        with pytest.raises(ZeroDivisionError):
            work(identity, fail=True)
    assert len(names(target.parent)) == 2
    assert work({"b": [2], "a": 1}, fail=False) == {"part"}
    assert names(target) == {"part", "manifest.json"}
    assert names(target.parent) == {"thing"}  # what the other work left, and the lock, are gone


def test_a_helper_of_a_workspace_neither_locks_nor_cleans(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with workspace(target, {}) as one:
        with workspace(target, {}, exclusive=False) as two:
            assert one == two
        assert one.is_dir()


HOLD = """
import sys, time
from pathlib import Path
from sae_tools.common.artifacts import workspace
with workspace(Path(sys.argv[1]), {}) as folder:
    print("ready", flush=True)
    time.sleep(60)
"""


def test_two_runs_on_one_target_are_one_too_many(tmp_path: Path) -> None:
    target = tmp_path / "thing"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(target)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        holder = f"thing is being made by process {process.pid}; wait for it"
        with pytest.raises(ArtifactError, match=holder), workspace(target, {"other": "work"}):
            pass
        assert len(list(tmp_path.glob("*partial*"))) == 1
        process.kill()
    with workspace(target, {}):  # a kill frees it
        pass
    assert names(tmp_path) == set()


def test_a_lock_that_was_removed_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between opening the file and locking it, its holder ends and removes it."""
    target = tmp_path / "thing"
    flock = artifacts.fcntl.flock

    def late(file: object, how: int) -> None:
        (tmp_path / ".thing.lock").unlink()
        flock(file, how)

    monkeypatch.setattr(artifacts.fcntl, "flock", late)
    with pytest.raises(ArtifactError, match="is being made by"), lock(target):
        pass


def test_a_file_is_whole_or_absent(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x"

    def write(text: str, fail: bool) -> None:
        with new_file(path) as temporary:
            temporary.write_text(text)
            if fail:
                raise ZeroDivisionError

    write("old", fail=False)
    with pytest.raises(ZeroDivisionError):
        write("new", fail=True)
    assert path.read_text() == "old"
    assert names(path.parent) == {"x"}
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_a_full_or_read_only_disk_is_told_in_a_sentence(folder: Path, number: int) -> None:
    def fail(error: Exception) -> None:
        with new_folder(folder):
            raise error

    for error in (OSError(number, "x"), SafetensorError(f"I/O error: x (os error {number})")):
        with pytest.raises(ArtifactError, match=f"{folder} cannot be written: {os.strerror(number).lower()}; free"):
            fail(error)
    verify(folder)
    assert names(folder.parent) == {"thing"}


def test_other_errors_keep_their_own_words(tmp_path: Path) -> None:
    for error in (OSError(errno.EIO, "x"), PermissionError(errno.EACCES, "x", "/elsewhere/y"), SafetensorError("x")):
        with pytest.raises(type(error), match="x"), writing(tmp_path / "z"):
            raise error


def test_too_little_space_is_refused_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: SimpleNamespace(free=11 * 10**9))
    require_space(tmp_path / "not" / "yet", 10 * 10**9, "this")
    with pytest.raises(InputError, match=r"this needs 11\.01 GB .* but 11\.00 GB are free in .*; free some, or lower"):
        require_space(tmp_path / "not" / "yet", 10_010_000_000, "this")


def test_data_reach_the_disk_before_the_names_that_promise_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a power cut needs: each file is synced before the manifest exists, the manifest before the folder's name."""
    events: list[str] = []
    sync, rename, replace = artifacts._sync, Path.rename, Path.replace

    def note(what: str, path: Path, *target: Path) -> None:
        events.append(f"{what} {path.name.split('.tmp')[0]}")

    monkeypatch.setattr(artifacts, "_sync", lambda path: (note("sync", path), sync(path)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (note("replace", path), replace(path, target))[1])
    monkeypatch.setattr(Path, "rename", lambda path, target: (note("rename", path), rename(path, target))[1])
    with new_folder(tmp_path / "thing") as new:
        (new / "a").write_text("a")
        (new / "b").write_text("b")
    assert events == [
        "sync a",
        "sync b",
        "sync .thing",
        "sync .manifest.json",
        "replace .manifest.json",
        "sync .thing",
        "rename .thing",
        f"sync {tmp_path.name}",
    ]


def test_verifying_is_fast_enough_to_run_before_every_use(tmp_path: Path) -> None:
    with new_folder(tmp_path / "big") as new:
        (new / "x").write_bytes(bytes(50_000_000))
    start = time.process_time()
    verify(tmp_path / "big")
    assert time.process_time() - start < 1  # 0.05 measured
