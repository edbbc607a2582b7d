"""The harvest stage, killed anywhere: the next run ends with the bytes of an undisturbed one, and nothing beside."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import Tensor

from pipeline import harvest, paths
from pipeline.params import run
from sae_tools.common.artifacts import lock, verify
from sae_tools.common.faults import POINTS
from sae_tools.models.lm import LanguageModel
from tests.conftest import REPO
from tests.sae_tools.forked import own_progress_lock

SITE = "blocks.1.hook_resid_post"
N_SHARDS = 5


def stage(folder: Path, fault: str, file_limit: int | None) -> None:
    """`python -m pipeline.harvest` in `folder`, with what it says in a file."""
    own_progress_lock()
    os.chdir(folder)
    os.environ["SAE_TOOLS_FAULT"] = fault
    sys.argv = ["harvest"]
    with Path("log").open("w") as sys.stderr:
        faulthandler.dump_traceback_later(30, exit=True, file=sys.stderr)  # a run that hangs tells where
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        run(harvest.main, named=False)


def nursery(orders: Connection, model: str) -> None:
    """Run the stage in forks of this process, which then need not import or load anything: 0.3 s instead of 10 s."""
    import datasets.packaged_modules.json.json  # noqa: F401
    import torch

    from sae_tools.activations import harvest  # noqa: F401
    from sae_tools.common import distributed  # noqa: F401
    from sae_tools.models import corpus  # noqa: F401

    torch.set_num_threads(1)  # others do not outlive a fork
    lm = LanguageModel.load(model, device="cpu")
    LanguageModel.load = lambda *_: lm  # type: ignore[method-assign, assignment, misc]
    os.fsync = lambda _: None  # only a power cut would lose what a process wrote before it died
    fork = multiprocessing.get_context("fork")
    for *order, number, after in iter(orders.recv, None):
        process = fork.Process(target=stage, args=order)
        process.start()
        process.join(after)
        if process.is_alive():
            os.kill(process.pid or 0, number)
        process.join()
        orders.send(process.exitcode)


class Nursery:
    """Runs the stage in a folder; the exit code, minus the signal's number if one ended it."""

    def __init__(self, model: str) -> None:
        self.orders, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(target=nursery, args=(theirs, model))
        self.process.start()

    def run(self, folder: Path, fault: str = "", limit: int | None = None, kill: int = 9, after: float = 60) -> int:
        self.orders.send((folder, fault, limit, kill, after))
        assert self.orders.poll(120)
        return int(self.orders.recv())

    def close(self) -> None:
        self.orders.send(None)
        self.process.join()


@pytest.fixture(scope="module")
def forks(tiny_lm: Callable[..., Any]) -> Iterator[Nursery]:
    with closing(Nursery(tiny_lm("gpt2").name)) as made:
        yield made


@pytest.fixture(scope="module")
def new(tiny_lm: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Makes folders with params.yaml; the text gives `N_SHARDS` shards of two blocks."""
    text = tmp_path_factory.mktemp("text") / "text.jsonl"
    text.write_text("".join(json.dumps({"text": f"The fox sang {i} songs to the owl."}) + "\n" for i in range(60)))
    values = {
        "language_model": {"base": tiny_lm("gpt2").name, "device": "cpu"},
        "dataset": {"path": str(text), "context_size": 32, "n_tokens": 64 * N_SHARDS, "held_out_tokens": 64},
        "site": SITE,
        "harvest": {"shard_rows": 64, "batch_size": 2},
        "saes": {"a": {"architecture": "topk", "d_sae": 64, "k": 4, "training_tokens": 64}},
        "evaluate": {},
        "transfer": {},
        "features": {},
    }

    def make() -> Path:
        folder = tmp_path_factory.mktemp("run")
        (folder / "params.yaml").write_text(json.dumps(values))
        return folder

    return make


def artifacts(folder: Path) -> dict[str, bytes]:
    """Every file that a run left, temporary ones too."""
    files = (path for path in sorted((folder / "artifacts").rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def shards(folder: Path) -> dict[str, int]:
    """The inode of every complete shard: a shard that is written again gets another."""
    return {path.name: path.with_suffix(".safetensors").stat().st_ino for path in folder.rglob("shard-*.json")}


@pytest.fixture(scope="module")
def undisturbed(new: Callable[[], Path], forks: Nursery) -> Path:
    folder = new()
    assert forks.run(folder) == 0
    assert verify(folder / paths.ACTIVATIONS)[SITE]["n_shards"] == N_SHARDS
    return folder


LAST = 2 * N_SHARDS + 3  # files: the tokens and their manifest, each shard and its record, the activations' manifest
FAULTS = [
    *(f"file-{when}:{n}" for when in ("before-rename", "written") for n in (1, 2, 5, 6, LAST)),
    *(f"shard-{what}:{n}" for what in ("written", "recorded") for n in (1, N_SHARDS)),
    "manifest-written:2",
]
FOLDER_FAULTS = [f"folder-{what}:{n}" for what in ("before-rename", "between-renames", "renamed") for n in (1, 2)]


def test_every_fault_point_of_the_stage_is_tried() -> None:
    ours = {point for point in POINTS if point.split("-")[0] in ("file", "shard", "manifest", "folder")}
    assert {fault.split(":")[0] for fault in FAULTS + FOLDER_FAULTS} == ours


@pytest.mark.parametrize("fault", FAULTS + FOLDER_FAULTS)
def test_killed_at_a_fault_point(new: Callable[[], Path], forks: Nursery, undisturbed: Path, fault: str) -> None:
    folder = new()
    assert forks.run(folder, fault) == -signal.SIGKILL
    assert forks.run(folder) == 0
    assert artifacts(folder) == artifacts(undisturbed)


@pytest.mark.parametrize("fault", FOLDER_FAULTS)
def test_killed_while_it_replaces_an_older_result(
    new: Callable[[], Path], forks: Nursery, undisturbed: Path, fault: str
) -> None:
    folder = new()
    shutil.copytree(undisturbed / "artifacts", folder / "artifacts")
    assert forks.run(folder, fault) == -signal.SIGKILL
    for target in (paths.TOKENS, paths.ACTIVATIONS):
        if (folder / target).exists():
            verify(folder / target)
    assert forks.run(folder) == 0
    assert artifacts(folder) == artifacts(undisturbed)


def test_complete_shards_are_kept(new: Callable[[], Path], forks: Nursery, undisturbed: Path) -> None:
    folder = new()
    assert forks.run(folder, "shard-recorded:4") == -signal.SIGKILL
    kept = shards(folder)
    assert len(kept) == 4
    assert forks.run(folder) == 0
    assert kept.items() <= shards(folder).items()
    assert artifacts(folder) == artifacts(undisturbed)


def test_a_shard_damaged_in_between_is_made_again(new: Callable[[], Path], forks: Nursery, undisturbed: Path) -> None:
    folder = new()
    assert forks.run(folder, "shard-recorded:4") == -signal.SIGKILL
    (shard,) = folder.rglob("shard-00002.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    assert forks.run(folder) == 0
    assert artifacts(folder) == artifacts(undisturbed)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_at_random_times(new: Callable[[], Path], forks: Nursery, undisturbed: Path, number: int) -> None:
    folder = new()
    start = time.monotonic()
    assert forks.run(folder) == 0
    duration = time.monotonic() - start
    chance = random.Random(number)
    codes = set()
    for _ in range(10):
        code = forks.run(folder, kill=number, after=chance.uniform(0, duration))
        codes.add(code)
        if code == 0:
            assert artifacts(folder) == artifacts(undisturbed)
            folder = new()
    assert forks.run(folder) == 0
    assert artifacts(folder) == artifacts(undisturbed)
    # The first of each: before Python was ready to note a SIGTERM.
    assert codes & {-number, 128 + number}
    assert codes <= {0, -number, 128 + number}


def test_a_full_disk_is_told_in_a_sentence_and_costs_no_shard(
    new: Callable[[], Path], forks: Nursery, undisturbed: Path
) -> None:
    folder = new()
    assert forks.run(folder, "shard-recorded:2") == -signal.SIGKILL
    kept = shards(folder)
    assert forks.run(folder, limit=3_000) == 2  # bytes: a shard has 4,000, the tokens 2,000
    words = (folder / "log").read_text().splitlines()[-1]
    assert re.fullmatch(
        r"error: .*shard-00002\.safetensors cannot be written: file too large; free some space .*", words
    )
    assert shards(folder) == kept
    verify(folder / paths.TOKENS)
    assert forks.run(folder) == 0
    assert kept.items() <= shards(folder).items()
    assert artifacts(folder) == artifacts(undisturbed)


def test_a_disk_that_will_not_do_is_refused_at_once(
    new: Callable[[], Path], forks: Nursery, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = new()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    monkeypatch.setattr(sys, "argv", ["harvest"])
    activations = LanguageModel.activations

    def of_a_token(lm: LanguageModel, ids: Tensor, sites: Any) -> dict[str, Tensor]:
        assert ids.numel() == 1  # which tells the width
        return activations(lm, ids, sites)

    monkeypatch.setattr(LanguageModel, "activations", of_a_token)
    with pytest.raises(SystemExit, match="2"):
        run(harvest.main, named=False)
    assert re.search(r"error: .* needs 0\.00 GB of disk, .* but 0\.00 GB are free", capsys.readouterr().err)


def test_a_second_run_is_refused(new: Callable[[], Path], forks: Nursery) -> None:
    folder = new()
    with lock(folder / paths.TOKENS):
        assert forks.run(folder) == 2
        assert f"error: {paths.TOKENS} is being made by process {os.getpid()}" in (folder / "log").read_text()
    assert artifacts(folder) == {}


def test_other_settings_never_meet_the_shards_of_a_killed_run(
    new: Callable[[], Path], forks: Nursery, undisturbed: Path
) -> None:
    folder = new()
    params = folder / "params.yaml"
    ours = params.read_text()
    params.write_text(ours.replace('"float32"', '"bfloat16"').replace(SITE, "blocks.1.hook_mlp_out"))
    assert forks.run(folder, "shard-recorded:4") == -signal.SIGKILL
    params.write_text(ours)
    assert forks.run(folder) == 0
    assert artifacts(folder) == artifacts(undisturbed)


def test_a_worker_dies_and_all_go_on(new: Callable[[], Path], undisturbed: Path) -> None:
    """Of two workers the first has three shards and dies having made them; the second has two."""
    folder = new()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    environment = os.environ | {"SAE_TOOLS_FAULT": "shard-recorded:3", "PYTHONPATH": str(REPO)}
    done = subprocess.run(
        [*torchrun, "-m", "pipeline.harvest"], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr
    assert artifacts(folder) == artifacts(undisturbed)
