"""Whatever ends a training run, the next one goes on from its last checkpoint and ends with the same bytes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common import distributed
from sae_tools.common.artifacts import sha256
from sae_tools.common.errors import WorkbenchError
from sae_tools.common.settings import Recipe
from sae_tools.training import checkpoints
from sae_tools.training.run import Trained
from sae_tools.training.train import train
from tests.sae_tools import forked

D_IN, D_SAE, BATCH, STEPS = 12, 64, 16, 30
FILES = ("state.safetensors", "state.json", "manifest.json")
KILLED, SCALE = -signal.SIGKILL, 0.7
POINTS = (
    "step",
    "file-before-rename",
    "file-written",
    "manifest-written",
    "folder-before-rename",
    "folder-between-renames",
    "folder-renamed",
    "checkpoint-before-rename",
    "checkpoint-written",
)


def recipe(architecture: str, options: dict[str, Any], **values: Any) -> Recipe:
    settings = {
        "step": "sparse",
        "lr": 3e-3,
        "lr_warm_up_steps": 5,
        "lr_decay_steps": 10,
        "dead_after_tokens": 5 * BATCH,
    } | values
    return Recipe(architecture, D_SAE, STEPS * BATCH, BATCH, architecture_options=options, **settings)


RECIPES = {
    "topk": recipe("topk", {"k": 2}),
    "batchtopk": recipe("batchtopk", {"k": 2.0}),
    "standard": recipe("standard", {"l1_coefficient": 3.0, "l1_warm_up_steps": 20}, resample_every=6, lr=0.02),
    "jumprelu": recipe("jumprelu", {"jumprelu_init_threshold": 0.2, "l0_warm_up_steps": 20}),
    "target": recipe("standard", {"l1_coefficient": 3.0, "l1_warm_up_steps": 4}, target_l0=2.0, lr=0.02),
    "two seeds": recipe("topk", {"k": 2}, seeds=2),
}


def rows(first: int = 0, n: int = STEPS) -> Iterator[Tensor]:
    chance = torch.Generator().manual_seed(0)
    every = 5 + torch.randn(STEPS, BATCH, D_IN, generator=chance)  # so far from 0 that some latents never fire
    yield from every[first:n]


def once(config: Recipe, folder: Path, out: Path, seconds: float = 0.0, pause: float = 0.0) -> None:
    """Train, with a checkpoint at `folder` after each step, and leave the SAEs and the curve in `out`."""

    def batches(first: int) -> Iterator[Tensor]:
        for batch in rows(first):
            time.sleep(pause)
            yield batch

    write(train(batches, D_IN, config, {}, "cpu", SCALE, folder, seconds), out)


def write(trained: Trained, out: Path) -> None:
    for i, sae in enumerate(trained.saes):
        saes.save(sae, out / str(i))
    curve = [{key: value for key, value in row.items() if key != "tokens_per_second"} for row in trained.curve]
    (out / "curve.json").write_text(json.dumps(curve, sort_keys=True))


def digests(out: Path) -> dict[str, str]:
    files = {path.relative_to(out).as_posix(): sha256(path) for path in out.rglob("*") if path.is_file()}
    assert {"curve.json", "0/cfg.json", "0/sae_weights.safetensors"} <= set(files)
    return files


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The digests of runs that nothing disturbs and that write no checkpoint."""
    found = {}
    for name, config in RECIPES.items():
        out = tmp_path_factory.mktemp("undisturbed")
        assert forked.run(once, config, None, out) == 0
        found[name] = digests(out)
    return found


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "checkpoints", tmp_path / "out"


Expected = dict[str, dict[str, str]]
Folders = tuple[Path, Path]


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_killed_at_every_point(name: str, expected: Expected, folders: Folders) -> None:
    for i, point in enumerate(POINTS, list(RECIPES).index(name)):
        assert forked.run(once, RECIPES[name], *folders, SAE_TOOLS_FAULT=f"{point}:{1 + i % 3}") == KILLED, point
    assert not folders[1].exists(), "the run ended before it met every point"
    assert forked.run(once, RECIPES[name], *folders) == 0
    assert digests(folders[1]) == expected[name]
    assert sorted(path.name for path in folders[0].iterdir()) == ["step-000000028", "step-000000029"]


def test_killed_at_twenty_random_times(expected: Expected, folders: Folders) -> None:
    chance = random.Random(0)
    for _ in range(20):
        child = forked.start(once, RECIPES["two seeds"], *folders, 0.0, 0.005)
        child.join(chance.uniform(0.05, 0.25))
        child.kill()
        if forked.exit_code(child) == 0:
            assert digests(folders[1]) == expected["two seeds"]
            for folder in folders:
                shutil.rmtree(folder)
    assert forked.run(once, RECIPES["two seeds"], *folders) == 0
    assert digests(folders[1]) == expected["two seeds"]


def test_what_a_killed_write_left_is_removed_though_later_checkpoints_have_other_names(folders: Folders) -> None:
    config = RECIPES["topk"]
    assert forked.run(once, config, *folders, SAE_TOOLS_FAULT="checkpoint-before-rename:3") == KILLED
    left = {path.name for path in folders[0].iterdir() if path.name.startswith(".")}
    assert len(left) == 1
    tensors, _ = checkpoints.latest(folders[0])  # type: ignore[misc]
    checkpoints.save(folders[0], 30, tensors, {})
    assert not left & {path.name for path in folders[0].iterdir()}


# --- asked to stop ---------------------------------------------------------------------------------------------------


def signalled(config: Recipe, folder: Path, out: Path, number: int, again: bool = False) -> None:
    """A run whose 13th batch comes with a signal, and with another one if `again`."""

    def batches(first: int) -> Iterator[Tensor]:
        for i, batch in enumerate(rows(first), first):
            for _ in range(1 + again if i == 12 else 0):
                os.kill(os.getpid(), number)
            yield batch

    write(train(batches, D_IN, config, {}, "cpu", SCALE, folder), out)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_and_goes_on_later(number: int, code: int, expected: Expected, folders: Folders) -> None:
    assert forked.run(signalled, RECIPES["batchtopk"], *folders, number) == code
    assert [path.name for path in folders[0].iterdir()] == ["step-000000013"]
    assert forked.run(once, RECIPES["batchtopk"], *folders, 3600.0) == 0
    assert digests(folders[1]) == expected["batchtopk"]


def test_asked_twice_it_stops_at_once(folders: Folders) -> None:
    assert forked.run(signalled, RECIPES["topk"], *folders, signal.SIGTERM, True) == 143
    assert not folders[0].exists()


def test_asked_while_the_processes_compare_notes_it_still_stops(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wish may come between the question to the others and their answer."""
    asked: list[Tensor] = []

    def greatest(tensor: Tensor, *of: Any) -> Tensor:
        if tensor.dtype == torch.int64 and not asked:
            asked.append(tensor)
            os.kill(os.getpid(), signal.SIGTERM)
        return tensor

    monkeypatch.setattr(distributed, "greatest_", greatest)
    assert forked.run(once, RECIPES["topk"], *folders, 3600.0) == 143


def test_a_thread_trains_and_leaves_signals_alone(expected: Expected, folders: Folders) -> None:
    def in_thread() -> None:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                once(RECIPES["topk"], *folders)
            except BaseException as error:  # whatever it is, the child shall fail
                failed.append(error)

        before = signal.getsignal(signal.SIGTERM)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        sys.exit(bool(failed) or signal.getsignal(signal.SIGTERM) is not before)

    assert forked.run(in_thread) == 0
    assert digests(folders[1]) == expected["topk"]


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_is_passed_over(
    expected: Expected, folders: Folders, caplog: pytest.LogCaptureFixture
) -> None:
    assert forked.run(once, RECIPES["topk"], *folders, SAE_TOOLS_FAULT="checkpoint-written:9") == KILLED
    newest = folders[0] / "step-000000009"
    intact = {path: path.read_bytes() for path in newest.iterdir()}
    for file, damage in [
        ("state.safetensors", flip),
        ("state.json", flip),
        *itertools.product(FILES, (truncate, Path.unlink)),
    ]:
        for path, content in intact.items():
            path.write_bytes(content)
        damage(newest / file)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            _, about = checkpoints.latest(folders[0])  # type: ignore[misc]
        assert about["step"] == 8, (file, damage)
        (line,) = caplog.messages
        assert "step-000000009" in line
    assert forked.run(once, RECIPES["topk"], *folders) == 0
    assert digests(folders[1]) == expected["topk"]


def test_a_damaged_checkpoint_takes_no_good_one_s_place(folders: Folders) -> None:
    tensors = {"a": torch.ones(3)}
    for step in (10, 20):
        checkpoints.save(folders[0], step, tensors, {})
    flip(folders[0] / "step-000000020" / "state.safetensors")
    for step in (12, 14):
        checkpoints.save(folders[0], step, tensors, {})
    flip(folders[0] / "step-000000014" / "state.safetensors")
    found = checkpoints.latest(folders[0])
    assert found is not None
    assert found[1]["step"] == 12


# --- numbers that are not finite -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "bad"), [("batchtopk", float("nan")), ("jumprelu", float("inf"))])
def test_a_row_that_is_not_finite_stops_the_run_which_can_go_on_without_it(
    name: str, bad: float, expected: Expected, folders: Folders
) -> None:
    given: list[int] = []

    def batches(first: int) -> Iterator[Tensor]:
        for i, batch in enumerate(rows(first), first):
            given.append(i)
            broken = batch.clone()
            broken[3, 5] = bad if i == 9 else broken[3, 5]
            yield broken

    with pytest.raises(WorkbenchError, match=r"at step 9 the loss is .*rows \[3\] of the batch"):
        train(batches, D_IN, RECIPES[name], {}, "cpu", SCALE, folders[0], 0.0)
    assert given[-1] == 9
    _, about = checkpoints.latest(folders[0])  # type: ignore[misc]
    assert about["step"] == 9
    assert forked.run(once, RECIPES[name], *folders) == 0
    assert digests(folders[1]) == expected[name]


def test_a_run_that_diverges_stops_and_its_last_checkpoint_is_finite(folders: Folders) -> None:
    config = dataclasses.replace(RECIPES["standard"], lr=1e30, lr_warm_up_steps=0)
    with pytest.raises(WorkbenchError, match=r"at step \d+ the loss is (inf|nan).*lower lr"):
        train(rows, D_IN, config, {}, "cpu", 1.0, folders[0], 0.0)
    tensors, about = checkpoints.latest(folders[0])  # type: ignore[misc]
    assert about["step"] < 10
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


# --- full disk -------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_in_a_sentence_and_the_run_goes_on_when_there_is_space(
    expected: Expected, folders: Folders
) -> None:
    assert forked.run(once, RECIPES["topk"], *folders, SAE_TOOLS_FAULT="step:6") == KILLED
    told = folders[0].parent / "told"

    def with_little_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            once(RECIPES["topk"], *folders)
        except WorkbenchError as error:
            told.write_text(str(error))

    assert forked.run(with_little_disk) == 0
    assert "cannot be written: file too large" in told.read_text()
    assert checkpoints.latest(folders[0])[1]["step"] == 5  # type: ignore[index]
    assert [path.name for path in folders[0].iterdir() if path.name.startswith(".")] == []
    assert forked.run(once, RECIPES["topk"], *folders) == 0
    assert digests(folders[1]) == expected["topk"]
