"""Training that begins with an SAE, latents that stay, repair of an SAE: against copies, a planted truth, a kill."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_tools import saes
from sae_tools.activations.shards import Shards
from sae_tools.common.artifacts import sha256
from sae_tools.common.errors import InputError, SettingError
from sae_tools.common.settings import Adapt, Recipe
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.training.adapt import WAYS, adapt, mean_l0, plan, recipe_of, shortened, widen
from sae_tools.training.run import Watch
from sae_tools.training.train import train
from sae_tools.training.trainee import Trainee
from tests.conftest import ARCHITECTURES, OF_SAELENS, random_sae
from tests.sae_tools import forked

D_IN, D_SAE, BATCH = 12, 64, 32
WITH_ENCODER = sorted(set(ARCHITECTURES) - {"matching_pursuit"})


def recipe(architecture: str, d_sae: int = D_SAE, steps: int = 12, **values: Any) -> Recipe:
    options = dict(ARCHITECTURES[architecture])
    if "matryoshka_widths" in options:
        options["matryoshka_widths"] = sorted({16, D_SAE, d_sae})
    values = {"step": "sparse", "product_dtype": "float32", "lr": 0.01} | values
    return Recipe(architecture, d_sae, steps * BATCH, BATCH, architecture_options=options, **values)


def rows(n: int = 12) -> list[Tensor]:
    chance = torch.Generator().manual_seed(3)
    return [2 * torch.randn(BATCH, D_IN, generator=chance) + 0.3 for _ in range(n)]


def saved(architecture: str, folder: Path) -> saes.SAE[Any]:
    """A random SAE, through its folder: BatchTopK comes back as JumpReLU, decoder norms are folded."""
    saes.save(random_sae(architecture, D_IN, D_SAE), folder)
    return saes.load(folder)


def own_latents(sae: saes.SAE[Any], latents: slice) -> dict[str, Tensor]:
    return {
        name: tensor if name == "b_dec" else tensor[:, latents] if name == "W_enc" else tensor[latents]
        for name, tensor in sae.named_parameters()
    }


# --- to begin with an SAE --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_no_step_from_an_sae_gives_it_back(architecture: str, scale: float, tmp_path: Path) -> None:
    base, x = saved(architecture, tmp_path / "base"), rows(1)[0]
    trained = train(lambda _: [], D_IN, recipe(architecture), {}, "cpu", scale, start=base)
    saes.save(trained.sae, tmp_path / "again")
    again = saes.load(tmp_path / "again")
    assert type(again) is type(base)
    assert (base.encode(x) != 0).any()
    torch.testing.assert_close(again.encode(x), base.encode(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again(x), base(x), rtol=1e-4, atol=1e-5)


def test_an_sae_of_another_size_or_kind_is_refused(tmp_path: Path) -> None:
    base = saved("topk", tmp_path / "topk")
    with pytest.raises(SettingError, match=r"has W_\w+ \(.*64.*\), but topk needs \(.*80.*\)"):
        train(rows(), D_IN, recipe("topk", 80), {}, "cpu", start=base)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="has no threshold, but jumprelu needs"):
        train(rows(), D_IN, recipe("jumprelu"), {}, "cpu", start=base)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"frozen_latents is 5, but .* an SAE to start from"):
        train(rows(), D_IN, recipe("topk"), {}, "cpu", frozen_latents=5)  # type: ignore[arg-type]


# --- latents that stay -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", WITH_ENCODER)
@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_frozen_latents_keep_their_bytes_and_the_others_learn(architecture: str, way: str, tmp_path: Path) -> None:
    start = saved(architecture, tmp_path)
    config = recipe(architecture, step=way, dead_after_tokens=3 * BATCH)
    n = 48
    trained = train(lambda first: rows()[first:], D_IN, config, {}, "cpu", 0.37, start=start, frozen_latents=n)
    kept = own_latents(start, slice(n))
    for name, tensor in own_latents(trained.sae, slice(n)).items():
        assert torch.equal(tensor, kept[name]), name
    before, after = (own_latents(sae, slice(n, None)) for sae in (start, trained.sae))
    for name in ("W_enc", "W_dec"):
        assert (before[name] != after[name]).any(dim=0 if name == "W_enc" else 1).float().mean() > 0.3, name
    assert trained.live[0][:n].all()


@pytest.mark.parametrize("way", ["sparse", "dense"])
def test_what_is_frozen_does_not_move_while_the_others_learn(way: str, tmp_path: Path) -> None:
    """In training itself: what is saved gets the frozen bytes back in any case."""
    start = saved("standard", tmp_path / "base")
    how = recipe("standard", step=way)
    trainee = Trainee(how, 0, D_IN, {}, "cpu", torch.float32, start=start, frozen=8)
    before = {name: tensor.clone() for name, tensor in own_latents(trainee.sae, slice(8)).items()}
    for step, batch in enumerate(rows(6)):
        trainee.step(batch, step, 6)
    for name, tensor in own_latents(trainee.sae, slice(8)).items():
        assert tensor.equal(before[name]), name
    assert not trainee.sae.W_dec[8:].equal(start.W_dec[8:])


def test_what_is_not_frozen_learns_as_if_it_were_alone_with_the_error(tmp_path: Path) -> None:
    """The same as Adam by hand on the last latents alone, whose target is what the first ones leave over."""
    start, n, l1 = saved("standard", tmp_path), 48, 0.3
    config = dataclasses.replace(recipe("standard", steps=6), architecture_options={"l1_coefficient": l1})
    found = train(lambda first: rows(6)[first:], D_IN, config, {}, "cpu", start=start, frozen_latents=n).sae
    W_enc, W_dec, b_enc = (
        torch.nn.Parameter(own_latents(start, slice(n, None))[name].detach().clone())
        for name in ("W_enc", "W_dec", "b_enc")
    )
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc], lr=config.lr)
    for x in rows(6):
        with torch.no_grad():
            first = start.encode(x)[:, :n] @ start.W_dec[:n] + start.b_dec
        acts = ((x - start.b_dec) @ W_enc + b_enc).relu()
        error = (first + acts @ W_dec - x).square().sum(dim=-1)
        (error + l1 * (acts * W_dec.norm(dim=1)).sum(dim=-1)).mean().backward()
        torch.nn.utils.clip_grad_norm_([W_enc, W_dec, b_enc], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for name, expected in {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc}.items():
        torch.testing.assert_close(own_latents(found, slice(n, None))[name], expected.data, rtol=1e-3, atol=1e-4)


# --- the three ways --------------------------------------------------------------------------------------------------

KNOWN, NEW, HIDDEN = 12, 4, 20


def folder_of(acts: Tensor, folder: Path) -> Shards:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"acts": acts}, folder / "shard-00000.safetensors")
    return Shards(folder)


@pytest.fixture
def planted(tmp_path: Path) -> tuple[Tensor, saes.SAE[Any], Tensor, Shards]:
    """Orthonormal directions; an SAE that knows the first; rows of those alone, and shards of all: 3 of 16 are on."""
    chance = torch.Generator().manual_seed(0)
    directions = torch.linalg.qr(torch.randn(HIDDEN, HIDDEN, generator=chance))[0][: KNOWN + NEW]
    on = torch.rand(16_384, KNOWN + NEW, generator=chance) < 3 / (KNOWN + NEW)
    values = on * (1 + torch.rand(on.shape, generator=chance))
    base = random_sae("standard", HIDDEN, KNOWN)
    with torch.no_grad():
        base.W_dec.copy_(directions[:KNOWN])
        base.W_enc.copy_(directions[:KNOWN].T)
        base.b_enc.zero_()
        base.b_dec.zero_()
    saes.save(base, tmp_path / "base")
    shards = folder_of(values @ directions, tmp_path / "shards")
    return directions, saes.load(tmp_path / "base"), values[:, :KNOWN] @ directions[:KNOWN], shards


TOY = Recipe(
    "standard", KNOWN, 60_000, 256, lr=0.01, lr_decay_steps=120, step="sparse", product_dtype="float32",
    architecture_options={"l1_coefficient": 0.02},
)  # fmt: skip


def share_explained(sae: saes.SAE[Any], x: Tensor) -> dict[str, float]:
    with torch.no_grad():
        return {"explained_variance": explained_variance(x, sae(x))}


def test_an_extended_sae_finds_the_planted_directions_that_are_new(
    planted: tuple[Tensor, saes.SAE[Any], Tensor, Shards], tmp_path: Path
) -> None:
    directions, base, base_rows, shards = planted
    x = shards.sample(2_000, 0)
    config = Adapt(n_tokens=60_000, batch_size=256, extra_share=2 * NEW / KNOWN)
    how = plan("extended", base, TOY, base_rows, shards, config)
    assert (how.recipe.d_sae, how.frozen_latents) == (KNOWN + 2 * NEW, KNOWN)
    found = adapt(base, how, shards, {}, "cpu", lambda sae: share_explained(sae, x))
    saes.save(found.sae, tmp_path / "out")
    sae = saes.load(tmp_path / "out")
    for name, tensor in own_latents(base, slice(KNOWN)).items():
        assert torch.equal(own_latents(sae, slice(KNOWN))[name], tensor), name
    assert torch.equal(sae.encode(x)[:, :KNOWN], base.encode(x))
    extra = torch.nn.functional.normalize(sae.W_dec[KNOWN:], dim=-1)
    assert (extra @ directions[KNOWN:].T).amax(dim=0).min() > 0.95
    curve = [row["explained_variance"] for row in found.watched]
    assert [row["tokens"] for row in found.watched] == [0, 7424, 15104, 30208, 60160]
    assert curve[-1] > 0.95 > share_explained(base, x)["explained_variance"] + 0.1
    assert curve[-1] == share_explained(sae, x)["explained_variance"]


@pytest.mark.parametrize("architecture", WITH_ENCODER)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_and_architecture_trains_and_is_saved_whole(architecture: str, way: Any, tmp_path: Path) -> None:
    base = saved(architecture, tmp_path / "base")
    shards = folder_of(torch.cat(rows(64)), tmp_path / "shards")
    config = Adapt(n_tokens=12 * BATCH, batch_size=BATCH)
    how = plan(way, base, recipe(architecture), rows(1)[0], shards, config)
    found = adapt(base, how, shards, {}, "cpu", lambda sae: {"l0": mean_l0(sae, rows(1)[0])})
    saes.save(found.sae, tmp_path / "out")
    again = saes.load(tmp_path / "out")
    assert again.cfg.d_sae == D_SAE + (16 if way == "extended" else 0)
    assert mean_l0(again, rows(1)[0]) == found.watched[-1]["l0"]
    if way == "extended":
        for name, tensor in own_latents(base, slice(D_SAE)).items():
            assert torch.equal(own_latents(again, slice(D_SAE))[name], tensor), name
        for row in found.watched[:1] if architecture in ("standard", "jumprelu", "gated") else ():
            assert row["l0"] == pytest.approx(mean_l0(base, rows(1)[0]) * 1.25, rel=0.1)


def test_l0_is_the_base_sae_s_and_the_extended_one_has_a_share_more(tmp_path: Path) -> None:
    shards, config = folder_of(torch.cat(rows(64)), tmp_path / "shards"), Adapt(n_tokens=300, batch_size=BATCH)
    x = rows(1)[0]

    def l0s(architecture: str, **values: Any) -> list[tuple[float | None, float | None]]:
        base = saved(architecture, tmp_path / architecture)
        plans = [plan(way, base, recipe(architecture, **values), x, shards, config).recipe for way in WAYS]
        return [(one.target_l0, one.architecture_options.get("k")) for one in plans]

    assert l0s("topk") == [(None, 4), (None, 5), (None, 4)]
    base = saved("standard", tmp_path / "again")
    on, in_finetuned = ((base.encode(some) > 0).sum(1).float().mean().item() for some in (x, torch.cat(rows(64))))
    assert [target for target, _ in l0s("standard")] == pytest.approx([on, in_finetuned + on / 4, on])
    assert [target for target, _ in l0s("standard", target_l0=8.0)] == pytest.approx([8, in_finetuned + 2, 8])


def test_schedules_are_shortened_and_what_is_trained_already_does_not_warm_up(tmp_path: Path) -> None:
    options = {"l1_coefficient": 5.0, "l1_warm_up_steps": 40}
    whole = Recipe(
        "standard", D_SAE, 100 * 64, 64, lr_warm_up_steps=10, lr_decay_steps=50, dead_after_tokens=10_000, seeds=3,
        architecture_options=options,
    )  # fmt: skip
    config = Adapt(n_tokens=50 * 32, batch_size=32, lr=0.5)
    short = shortened(whole, config, 7.0)
    assert (short.training_tokens, short.batch_size, short.lr, short.seeds) == (1600, 32, 0.5, 1)
    assert (short.lr_warm_up_steps, short.lr_decay_steps, short.dead_after_tokens) == (5, 25, 400)
    assert short.architecture_options == {"l1_coefficient": 5.0, "l1_warm_up_steps": 20}
    base, shards = saved("standard", tmp_path / "sae"), folder_of(torch.cat(rows()), tmp_path / "shards")
    settled = plan("finetuned", base, whole, rows(1)[0], shards, config, coefficient=0.7).recipe
    assert settled.architecture_options == {"l1_coefficient": 0.7}
    scratch = plan("scratch", base, whole, rows(1)[0], shards, config, coefficient=0.7).recipe
    assert scratch.architecture_options == short.architecture_options


def test_new_latents_lie_along_the_error_and_fire_on_their_share(tmp_path: Path) -> None:
    base, x = saved("standard", tmp_path), torch.cat(rows(64))
    wide = widen(base, x, 16, 0.125, seed=0)
    assert (wide.encode(x)[:, D_SAE:] > 0).float().mean().item() == pytest.approx(0.125, abs=0.002)
    assert torch.equal(wide.encode(x)[:, :D_SAE], base.encode(x))
    rest = torch.nn.functional.normalize(x - base(x), dim=-1)
    new = torch.nn.functional.normalize(wide.W_dec[D_SAE:], dim=-1)
    assert (new @ rest.T).amax(dim=1).min() > 1 - 1e-5
    assert wide.W_dec[D_SAE:].norm(dim=1).mean().item() == pytest.approx(base.W_dec.norm(dim=1).mean().item(), rel=1e-4)


@pytest.mark.parametrize("architecture", sorted(set(WITH_ENCODER) & set(OF_SAELENS)))
def test_a_pretrained_sae_tells_its_recipe(architecture: str, tmp_path: Path) -> None:
    base = saved(architecture, tmp_path / "base")
    found = recipe_of(base, Adapt(n_tokens=320, batch_size=32))
    assert (found.architecture, found.d_sae, found.training_tokens) == (architecture, D_SAE, 320)
    for key, value in ARCHITECTURES[architecture].items():
        assert found.architecture_options[key] == value
    shards = folder_of(torch.cat(rows(64)), tmp_path / "shards")
    assert plan("extended", base, found, rows(1)[0], shards, Adapt()).start is not None


def test_what_cannot_be_adapted_is_refused_in_a_sentence(tmp_path: Path) -> None:
    base = saved("matching_pursuit", tmp_path)
    with pytest.raises(InputError, match=r"'matching_pursuit' cannot be adapted; set transfer.adapt to null"):
        recipe_of(base, Adapt())
    odd = saved("topk", tmp_path / "odd")
    odd.cfg.normalize_activations = "covariance_whitening"
    with pytest.raises(InputError, match="normalize_activations 'covariance_whitening' cannot be adapted"):
        recipe_of(odd, Adapt())


# --- killed ----------------------------------------------------------------------------------------------------------


def once(source: Path, work: Path, out: Path) -> None:
    base, shards = saes.load(source / "base"), Shards(source / "shards")
    how = plan("extended", base, recipe("batchtopk"), rows(1)[0], shards, Adapt(n_tokens=12 * BATCH, batch_size=BATCH))
    work.mkdir(exist_ok=True)
    found = adapt(base, how, shards, {}, "cpu", lambda sae: {"l0": mean_l0(sae, rows(1)[0])}, work, 0.0)
    saes.save(found.sae, out)
    (out / "watched.json").write_text(json.dumps([found.watched, dataclasses.asdict(found.recipe)], sort_keys=True))


def test_a_killed_run_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    saved("batchtopk", tmp_path / "base")
    folder_of(torch.cat(rows(64)), tmp_path / "shards")
    assert forked.run(once, tmp_path, tmp_path / "calm", tmp_path / "expected") == 0
    for fault in ("step:4", "checkpoint-before-rename:2", "checkpoint-written:3", "step:1"):
        code = forked.run(once, tmp_path, tmp_path / "work", tmp_path / "found", SAE_TOOLS_FAULT=fault)
        assert code == -signal.SIGKILL, fault
    assert forked.run(once, tmp_path, tmp_path / "work", tmp_path / "found") == 0
    for name in ("sae_weights.safetensors", "cfg.json", "watched.json"):
        assert sha256(tmp_path / "found" / name) == sha256(tmp_path / "expected" / name), name


# --- what is watched -------------------------------------------------------------------------------------------------


def test_what_is_watched_is_the_sae_that_a_shorter_run_saves(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []

    def measure(sae: saes.SAE[Any]) -> dict[str, float]:
        seen.append(sae.state_dict())
        return {"n": float(len(seen))}

    def batches(n: int) -> Iterator[Tensor]:
        yield from rows(n)

    config = recipe("batchtopk", lr=0.002)
    watched = train(lambda _: batches(12), D_IN, config, {}, "cpu", 0.37, watch=Watch((0, 5), measure)).watched
    assert watched == [{"tokens": 0, "n": 1.0}, {"tokens": 5 * BATCH, "n": 2.0}]
    saes.save(train(lambda _: batches(5), D_IN, config, {}, "cpu", 0.37).sae, tmp_path)
    for name, tensor in saes.load(tmp_path).state_dict().items():
        assert torch.equal(tensor, seen[1][name]), name
