"""An SAE divided by latents among processes is the undivided one: its choice, its gradients, its training, its end."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.common import distributed
from sae_tools.common.artifacts import new_folder, sha256
from sae_tools.common.errors import ArtifactError, SettingError
from sae_tools.common.settings import Recipe
from sae_tools.saes import TrainStepInput
from sae_tools.training import checkpoints
from sae_tools.training.divided import Division, divided
from sae_tools.training.sparse import top_k
from sae_tools.training.steps import Stepper
from sae_tools.training.topk_step import _batch_top_k, _pairs, _strongest
from sae_tools.training.train import train
from sae_tools.training.weights import latents_of
from tests.sae_tools import forked
from tests.sae_tools.training.test_steps import CASES, DEAD, inputs_with, random_sae

D_IN, D_SAE, BATCH, STEPS = 12, 128, 64, 16
LAYOUTS = {"2": (2, 2), "4": (4, 4), "2 x 2": (4, 2)}
"""Processes, and parts of the latents."""
TOLD = ("loss", "l0", "dead_share", "coefficient")
"""Explained variance is the mean of each share's own."""
RULES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "topk": ("topk", {"k": 2}, {"seeds": 2}),
    "abstopk": ("abstopk", {"k": 2}, {}),
    "batchtopk": ("batchtopk", {"k": 1.5, "normalize_activations": "expected_average_only_in"}, {}),
    "matryoshka": (
        "matryoshka_batchtopk",
        {"k": 2.0, "matryoshka_widths": [24, 80, 128], "use_matryoshka_aux_loss": True},
        {},
    ),
    "standard, resampled": ("standard", {"l1_coefficient": 2.0}, {"resample_every": 6}),
    "standard, steered": ("standard", {"l1_coefficient": 2.0}, {"target_l0": 40.0}),
    "jumprelu": ("jumprelu", {"jumprelu_init_threshold": 0.3, "pre_act_loss_coefficient": 1e-3}, {}),
    "frozen decoder": ("topk", {"k": 2}, {"frozen_decoder": True}),
}


def recipe(rule: str, parts: int = 1, **values: Any) -> Recipe:
    architecture, options, settings = RULES[rule]
    settings = {"lr": 3e-3, "dead_after_tokens": 4 * BATCH, "product_dtype": "float32"} | settings | values
    return Recipe(
        architecture, D_SAE, STEPS * BATCH, BATCH, latent_parallel=parts,
        architecture_options=copy.deepcopy(options), **({"step": "sparse"} if parts == 1 else {}) | settings,
    )  # fmt: skip


def rows(first: int) -> list[Tensor]:
    """Batches so far from 0 that some latents never fire."""
    chance = torch.Generator().manual_seed(0)
    return list(3 + torch.randn(STEPS, BATCH, D_IN, generator=chance))[first:]


def every_rule(parts: int, out: Path) -> None:
    """Train by each rule, and leave in `out` what process 0 and another one ended with."""
    with distributed.group():
        for number, rule in enumerate(RULES):
            trained = train(rows, D_IN, recipe(rule, parts), {}, "cpu", scale=0.7)
            found = {
                "saes": [{name: t.clone() for name, t in sae.state_dict().items()} for sae in trained.saes],
                "live": trained.live,
                "curve": [{key: row[key] for key in TOLD} for row in trained.curve],
            }
            if trained.saes:
                saes.save(trained.sae, out / f"{number}")
            torch.save(found, out / f"{number}-{distributed.rank()}.pt")


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undivided")
    assert forked.run(every_rule, 1, out) == 0
    return out


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    n, parts = LAYOUTS[request.param]
    out: Path = tmp_path_factory.mktemp("divided")
    assert forked.ranks(n, every_rule, parts, out) == [0] * n
    return out


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm().clamp(min=1e-9))


@pytest.mark.parametrize("rule", RULES)
def test_a_divided_sae_trains_as_the_undivided_one(undivided: Path, layout: Path, rule: str) -> None:
    number = list(RULES).index(rule)
    expected = torch.load(undivided / f"{number}-0.pt")
    found, other = (torch.load(layout / f"{number}-{rank}.pt") for rank in (0, 1))
    assert other["saes"] == [], "the whole is put together in one process"
    assert other["curve"] == found["curve"]
    assert len(found["saes"]) == len(expected["saes"]) == recipe(rule).seeds
    for ours, theirs in zip(found["saes"], expected["saes"], strict=True):
        for name, weight in theirs.items():
            assert relative(ours[name], weight) <= 1e-5, name
    assert all(map(torch.equal, found["live"], expected["live"]))
    assert 0 < max(row["dead_share"] for row in expected["curve"]) < 1
    for ours, theirs in zip(found["curve"], expected["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    probe = rows(0)[0]
    ours, theirs = (saes.load(folder / f"{number}").encode(probe) for folder in (layout, undivided))
    assert torch.equal(ours != 0, theirs != 0), "other latents fire"
    assert (layout / f"{number}" / "cfg.json").read_bytes() == (undivided / f"{number}" / "cfg.json").read_bytes()


# --- one step --------------------------------------------------------------------------------------------------------


def part_of(whole: saes.TrainingSAE[Any], division: Division) -> saes.TrainingSAE[Any]:
    return division.build(lambda device: copy.deepcopy(whole).to(device), "cpu").train()


def every_step(dead: list[int]) -> None:
    """Hold each gradient of a part to that of SAELens' own pass over the whole."""
    with distributed.group():
        division = divided(distributed.world(), "cpu")
        for case in CASES:
            for n_dead in dead:
                whole = random_sae(*CASES[case])
                inputs = inputs_with(n_dead, whole)
                size = len(whole.W_dec) // division.parts
                own = slice(division.part * size, (division.part + 1) * size)
                part = part_of(whole, division)
                stepper = Stepper(part, torch.float32, division=division)
                assert inputs.dead_neuron_mask is not None
                mine = TrainStepInput(inputs.sae_in, inputs.coefficients, inputs.dead_neuron_mask[own], 10, False)
                result = stepper(mine)
                norm = division.combine_(stepper.parameters)
                expected = whole.training_forward_pass(inputs)
                expected.loss.backward()
                theirs = torch.nn.utils.clip_grad_norm_(whole.parameters(), 1.0)
                assert float(norm) == pytest.approx(float(theirs), rel=1e-5), case
                assert float(result.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-5)
                on = expected.feature_acts != 0
                assert torch.equal(result.fired, on.any(0)[own])
                assert float(result.l0) == pytest.approx(float(on.sum(-1).float().mean()))
                for name, parameter in whole.named_parameters():
                    if parameter.grad is None or parameter.grad.norm() < 1e-6:
                        continue
                    gradient = stepper.parameters[name].grad
                    assert gradient is not None, (case, name)
                    gradient = gradient.T if name == "W_enc" else gradient
                    assert relative(gradient, latents_of(name, parameter.grad, own)) <= 1e-5, (case, n_dead, name)


@pytest.mark.parametrize(("parts", "dead"), [(2, list(DEAD.values())), (4, [DEAD["few dead"]])])
def test_loss_and_every_gradient_of_a_part_are_saelens_of_the_whole(parts: int, dead: list[int]) -> None:
    assert forked.ranks(parts, every_step, dead) == [0] * parts


# --- the choice ------------------------------------------------------------------------------------------------------


def choose(out: Path) -> None:
    """Choose among whole numbers, which are exact in every order of summing: many of few values, or all unlike."""
    with distributed.group():
        division = divided(distributed.world(), "cpu")
        size = 1024 // division.parts
        own = slice(division.part * size, (division.part + 1) * size)
        chance = torch.Generator().manual_seed(0)
        few = torch.randint(-3, 4, (50, 1024), generator=chance).to(torch.bfloat16)
        one_sided = few + torch.linspace(0, 8, 1024).floor().to(torch.bfloat16)  # the last process has most of them
        unlike = torch.stack([torch.randperm(1024, generator=chance) for _ in range(50)]).float()
        eye = torch.eye(1024)
        for name, pre in {"few": few, "one-sided": one_sided, "unlike": unlike}.items():
            for k in (1, 5, 300, 700):
                chosen = _pairs(*_strongest(pre[:, own].split(20), k, top_k, division))
                in_batch = _batch_top_k(pre.float(), eye[own], torch.zeros(size), k, torch.float32, division)
                for kind, (samples, latents) in {"sample": chosen, "batch": in_batch}.items():
                    assert bool((samples.diff() >= 0).all())
                    mask = torch.zeros(50, size, dtype=torch.bool)
                    mask[samples, latents] = True
                    assert int(mask.sum()) == len(samples), "a latent was chosen twice"
                    torch.save((pre, mask), out / f"{name}-{k}-{kind}-{distributed.rank()}.pt")


@pytest.mark.parametrize("parts", [2, 4])
def test_the_k_best_of_all_parts_are_those_of_the_whole(parts: int, tmp_path: Path) -> None:
    assert forked.ranks(parts, choose, tmp_path) == [0] * parts
    for file in tmp_path.glob("*-0.pt"):
        name, k, kind, _ = file.stem.rsplit("-", 3)
        pre, _ = torch.load(file)
        mask = torch.cat([torch.load(tmp_path / f"{name}-{k}-{kind}-{rank}.pt")[1] for rank in range(parts)], dim=1)
        n = int(k) * (len(pre) if kind == "batch" else 1)
        lines, masks = (pre.reshape(1, -1), mask.reshape(1, -1)) if kind == "batch" else (pre, mask)
        for line, chosen in zip(lines, masks, strict=True):
            best = line.topk(n).values
            best = best[best > 0] if kind == "batch" else best
            assert torch.equal(line[chosen].sort(descending=True).values, best), file.stem
            if name == "unlike" and kind == "sample":
                assert torch.equal(chosen.nonzero().flatten(), line.topk(n).indices.sort().values)


# --- killed ----------------------------------------------------------------------------------------------------------


def worker(fault: str, folder: Path, out: Path) -> None:
    """Train, and save; in the first attempt rank 1 dies at `fault`, if one is named."""
    if fault and os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        os.environ["SAE_TOOLS_FAULT"] = fault
    with distributed.group():
        trained = train(rows, D_IN, recipe("batchtopk", 2), {}, "cpu", 1.0, folder, 0.0)
        if distributed.rank() == 0:
            saes.save(trained.sae, out)
            (out / "attempt").write_text(os.environ["TORCHELASTIC_RESTART_COUNT"])


def test_a_killed_process_changes_nothing(tmp_path: Path) -> None:
    found = []
    for i, fault in enumerate(["", "checkpoint-before-rename:7"]):
        out = tmp_path / f"out-{i}"
        assert forked.torchrun(worker, fault, tmp_path / f"checkpoints-{i}", out) == 0
        assert (out / "attempt").read_text() == str(int(bool(fault)))
        found.append([sha256(out / file) for file in ("cfg.json", "sae_weights.safetensors")])
    assert found[0] == found[1]
    assert {path.name for path in (tmp_path / "checkpoints-0").iterdir()} == {"part-0-of-2", "part-1-of-2"}


def agree(folder: Path, steps: dict[int, list[int]], expected: int | None) -> None:
    with distributed.group():
        own = checkpoints.folder_of(folder, distributed.rank(), 2)
        for step in steps[distributed.rank()]:
            with new_folder(own / f"step-{step:09d}") as new:
                checkpoints.write_json(new / "state.json", {"step": step})
                checkpoints.save_file({"part": torch.tensor(distributed.rank())}, new / "state.safetensors")
        if distributed.rank() == 1 and 30 in steps[1]:
            (own / "step-000000030" / "state.json").write_text("{}")  # damaged
        found = checkpoints.latest(own, shared=True)
        assert (found and found[1]["step"]) == expected
        assert found is None or int(found[0]["part"]) == distributed.rank()


@pytest.mark.parametrize(
    ("first", "second", "expected"), [([10, 20], [10], 10), ([20, 30], [20, 30], 20), ([10], [], None), ([], [], None)]
)
def test_training_goes_on_from_the_last_step_that_every_part_has(
    first: list[int], second: list[int], expected: int | None, tmp_path: Path
) -> None:
    assert forked.ranks(2, agree, tmp_path, {0: first, 1: second}, expected) == [0, 0]


# --- refused ---------------------------------------------------------------------------------------------------------


def test_checkpoints_of_another_division_are_refused(tmp_path: Path) -> None:
    (tmp_path / "part-1-of-4").mkdir()
    for parts in (1, 2):
        with pytest.raises(ArtifactError, match=f"divided by 4, not by {parts}; remove them, or set latent_parallel"):
            checkpoints.folder_of(tmp_path, 0, parts)
    shutil.rmtree(tmp_path / "part-1-of-4")
    (tmp_path / "step-000000001").mkdir()
    with pytest.raises(ArtifactError, match="divided by 1, not by 2"):
        checkpoints.folder_of(tmp_path, 0, 2)


def test_latents_that_cannot_be_divided_equally_are_refused() -> None:
    with pytest.raises(SettingError, match="latent_parallel of an SAE is 3, but it must divide d_sae = 128"):
        recipe("topk", 3)


@pytest.mark.parametrize(
    ("processes", "settings", "problem"),
    [
        (1, {}, "latent_parallel is 2, but the number of processes, 1, is no multiple of it; start torchrun"),
        (3, {}, "the number of processes, 3, is no multiple of it"),
        (6, {}, "batch_size is 64, but it must be a multiple of the 3 processes that share it"),
    ],
)
def test_processes_that_cannot_divide_it_are_refused(
    processes: int, settings: dict[str, Any], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(SettingError, match=problem):
        train(rows, D_IN, recipe("topk", 2, **settings), {}, "cpu")


def test_to_go_on_from_another_sae_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SettingError, match="from another SAE's weights is not divided"):
        train(rows, D_IN, recipe("topk", 2), {}, "cpu", start=random_sae("topk", {"k": 4}))


def refuse(architecture: str, options: dict[str, Any], step: Any, problem: str) -> None:
    config = Recipe(architecture, D_SAE, BATCH, BATCH, step=step, latent_parallel=2, architecture_options=options)
    with distributed.group(), pytest.raises(SettingError, match=problem):
        train(rows, D_IN, config, {}, "cpu")


@pytest.mark.parametrize(
    ("architecture", "options", "step", "problem"),
    [
        ("gated", {}, "auto", "gated with these options has no sparse step, which latent_parallel needs"),
        ("standard", {"lp_norm": 0.5}, "auto", "standard with these options has no sparse step"),
        ("topk", {"k": 2}, "dense", "step: dense has no sparse step"),
    ],
)
def test_what_has_no_sparse_step_is_refused(
    architecture: str, options: dict[str, Any], step: str, problem: str
) -> None:
    assert forked.ranks(2, refuse, architecture, options, step, problem) == [0, 0]


def test_which_numbers_of_processes_fit() -> None:
    config = recipe("topk", 4)
    assert [n for n in range(1, 33) if config.fits(n)] == [4, 8, 16, 32]
    assert [n for n in range(1, 9) if recipe("topk").fits(n)] == [1, 2, 4, 8]
