"""A crosscoder on made-up activations of two models with known features: shared ones, and one of one model alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_tools import saes
from sae_tools.activations.shards import Shard, Shards
from sae_tools.common.errors import InputError, SettingError
from sae_tools.common.read_settings import read
from sae_tools.common.settings import Diff, Transfer
from sae_tools.metrics.crosscoder import CLASSES, LatentScaling, classify, genuine, relative_norm
from sae_tools.metrics.reconstruction import explained_variance
from sae_tools.training.crosscoder import Crosscoder, recipe_of, train_crosscoder
from sae_tools.training.pairs import Pairs

N, D, N_SHARED = 6_000, 24, 12
CONFIG = Diff(d_sae=16, training_tokens=160_000, k=2.0, batch_size=256, lr=0.01)
ABOUT = {name: {"model_name": name} for name in ("joint", "base", "finetuned")}


def write(folder: Path, rows: Tensor, shard_rows: int = 2_500) -> Shards:
    """Shards of rows; those of equal length are permuted alike."""
    for i, part in enumerate(torch.split(rows, shard_rows)):
        shard = Shard(len(part), rows.shape[1], torch.float32, 0, i)
        shard.add(part)
        shard.write(folder)
    return Shards(folder)


@pytest.fixture(scope="module")
def features() -> Tensor:
    """(N, N_SHARED + 1) features, two on at a time on average."""
    chance = torch.Generator().manual_seed(0)
    on = torch.rand(N, N_SHARED + 1, generator=chance) < 2 / (N_SHARED + 1)
    return on * (1 + 0.3 * torch.randn(N, N_SHARED + 1, generator=chance)).clamp(min=0.2)


@pytest.fixture(scope="module")
def directions() -> tuple[Tensor, Tensor]:
    """(N_SHARED + 1, D) of base and finetuned model; the last one is the finetuned model's alone."""
    base, finetuned = (
        torch.linalg.qr(torch.randn(D, N_SHARED + 1, generator=torch.Generator().manual_seed(i)))[0].T for i in (1, 2)
    )
    base = base.clone()
    base[-1] = 0
    return base, 3 * finetuned  # three times as long: the scales make up for it


@pytest.fixture(scope="module")
def rows(features: Tensor, directions: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    base, finetuned = (features @ d for d in directions)
    noise = torch.randn(2, N, D, generator=torch.Generator().manual_seed(3)) * 0.02
    return base + noise[0], finetuned + 3 * noise[1]


@pytest.fixture(scope="module")
def pairs(rows: tuple[Tensor, Tensor], tmp_path_factory: pytest.TempPathFactory) -> Pairs:
    folder = tmp_path_factory.mktemp("pair")
    return Pairs(write(folder / "base", rows[0]), write(folder / "finetuned", rows[1]), 0)


@pytest.fixture(scope="module")
def crosscoder(pairs: Pairs) -> Crosscoder:
    return train_crosscoder(pairs, CONFIG, ABOUT, "cpu")


def decoders(found: Crosscoder) -> tuple[Tensor, Tensor]:
    """Both halves of the decoder, in scaled units."""
    base, finetuned = found.joint.W_dec.chunk(2, dim=1)
    return found.scales[0] * base, found.scales[1] * finetuned


def test_pairs_are_of_one_token_and_one_size(pairs: Pairs, rows: tuple[Tensor, Tensor]) -> None:
    whole = torch.cat(list(pairs.batches(1000, N, seed=1)))
    halves = whole.chunk(2, dim=1)
    assert [float(half.norm(dim=1).mean()) for half in halves] == pytest.approx([D**0.5] * 2, rel=0.05)
    tokens = [torch.cdist(half[:50] / pairs.scales[i], rows[i]).argmin(dim=1) for i, half in enumerate(halves)]
    assert torch.equal(*tokens)
    for i, half in enumerate(halves):
        torch.testing.assert_close(half[:50], pairs.scales[i] * rows[i][tokens[i]])
    assert not torch.equal(tokens[0], torch.arange(50))


def test_pairs_go_on_from_any_batch(pairs: Pairs) -> None:
    every = list(pairs.batches(700, 2 * N, seed=3))
    later = list(pairs.batches(700, 2 * N, seed=3, first=5))
    assert len(later) == len(every) - 5
    assert all(torch.equal(a, b) for a, b in zip(every[5:], later, strict=True))


@pytest.mark.parametrize(("n", "shard_rows", "d"), [(N - 1, 2_500, D), (N, 2_000, D)])
def test_rows_of_other_tokens_are_refused(
    rows: tuple[Tensor, Tensor], tmp_path: Path, n: int, shard_rows: int, d: int
) -> None:
    base, other = write(tmp_path / "base", rows[0]), write(tmp_path / "other", rows[1][:n, :d], shard_rows)
    with pytest.raises(InputError, match="equal tokens are expected; harvest both anew"):
        Pairs(base, other, 0)


def test_another_width_is_refused(rows: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    base, other = write(tmp_path / "base", rows[0]), write(tmp_path / "other", rows[1][:, :8])
    with pytest.raises(InputError, match="width 24 in the base and 8 in the finetuned"):
        Pairs(base, other, 0)


def test_the_one_feature_of_one_model_is_found_and_genuine(
    crosscoder: Crosscoder, rows: tuple[Tensor, Tensor], directions: tuple[Tensor, Tensor]
) -> None:
    base, finetuned = decoders(crosscoder)
    f = crosscoder.joint.encode(torch.cat(rows, dim=1))
    live = f.any(dim=0)
    relative = relative_norm(base, finetuned)
    classes = [CLASSES[i] for i in classify(relative)]
    exclusive = [j for j in range(CONFIG.d_sae) if live[j] and classes[j] in ("base_only", "finetuned_only")]
    assert len(exclusive) == 1
    assert classes[exclusive[0]] == "finetuned_only"
    truth = directions[1][-1]
    assert float(torch.nn.functional.cosine_similarity(finetuned[exclusive[0]], truth, dim=0)) > 0.98
    scaling = LatentScaling(base, finetuned)
    x = crosscoder.scales[0] * rows[0], crosscoder.scales[1] * rows[1]
    scaling.add(f, x, (f @ base + crosscoder.scales[0] * crosscoder.joint.b_dec[:D],
                       f @ finetuned + crosscoder.scales[1] * crosscoder.joint.b_dec[D:]))  # fmt: skip
    assert (genuine(relative, scaling.nu()) & live).nonzero().flatten().tolist() == exclusive


def test_every_shared_feature_has_a_latent_with_both_directions(
    crosscoder: Crosscoder, directions: tuple[Tensor, Tensor]
) -> None:
    both = torch.cat(decoders(crosscoder), dim=1)
    scaled = torch.cat([s * d for s, d in zip(crosscoder.scales, directions, strict=True)], dim=1)
    cosines = torch.nn.functional.normalize(scaled, dim=1) @ torch.nn.functional.normalize(both, dim=1).T
    assert (cosines.amax(dim=1) > 0.95).all()


def test_crosscoder_and_halves_open_as_saes_of_their_model(
    crosscoder: Crosscoder, rows: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    inputs = {"joint": torch.cat(rows, dim=1), "base": rows[0], "finetuned": rows[1]}
    for name, x in inputs.items():
        saes.save(getattr(crosscoder, name), tmp_path / name)
        sae = saes.load(tmp_path / name)
        assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.metadata.model_name) == (x.shape[1], CONFIG.d_sae, name)
        f = sae.encode(x)
        assert explained_variance(x, sae.decode(f)) > 0.9
        assert float((f > 0).sum(dim=1).float().mean()) == pytest.approx(CONFIG.k, rel=0.15)


def test_a_latent_of_the_halves_is_that_of_the_crosscoder(crosscoder: Crosscoder, rows: tuple[Tensor, Tensor]) -> None:
    f = crosscoder.joint.encode(torch.cat(rows, dim=1))
    for sae, x in ((crosscoder.base, rows[0]), (crosscoder.finetuned, rows[1])):
        own = sae.encode(x)
        both = (f.sum(dim=0) > 0) & (own.sum(dim=0) > 0)
        correlations = [float(torch.corrcoef(torch.stack([f[:, j], own[:, j]]))[0, 1]) for j in both.nonzero()[:, 0]]
        assert len(correlations) >= N_SHARED
        assert sorted(correlations)[-N_SHARED] > 0.9


def test_a_feature_that_a_model_lacks_never_fires_in_its_half(
    crosscoder: Crosscoder, rows: tuple[Tensor, Tensor]
) -> None:
    base, finetuned = decoders(crosscoder)
    alone = relative_norm(base, finetuned) > 0.9
    assert alone.any()
    assert float((crosscoder.base.encode(rows[0])[:, alone] > 0).float().mean()) < 0.01


def test_a_model_against_itself_has_nothing_of_its_own(rows: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    shards = write(tmp_path, rows[1])
    found = train_crosscoder(Pairs(shards, shards, 0), CONFIG, ABOUT, "cpu")
    x = torch.cat([rows[1], rows[1]], dim=1)
    f = found.joint.encode(x)
    live = f.any(dim=0)
    classes = {CLASSES[i] for i in classify(relative_norm(*decoders(found)))[live]}
    assert not classes & {"base_only", "finetuned_only"}
    # The other half is no guess here: up to each half's own threshold the half is the crosscoder.
    own = found.base.encode(rows[1])
    fires = (f > 0) & (own > 0)
    ratio = (own / f.clamp(min=1e-9))[:, live]
    for j, column in enumerate(live.nonzero()[:, 0].tolist()):
        values = ratio[:, j][fires[:, column]]
        assert len(values) == 0 or float(values.std()) < 0.01 * float(values.mean())


def test_a_run_of_one_seed_gives_one_result(pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Which way of stepping is faster is timed anew in each run, and the two round differently.
    monkeypatch.setattr(
        "sae_tools.training.crosscoder.recipe_of", lambda *of: dataclasses.replace(recipe_of(*of), step="sparse")
    )
    one, two = (train_crosscoder(pairs, CONFIG, ABOUT, "cpu", tmp_path / name) for name in ("one", "two"))
    for name in ("joint", "base", "finetuned"):
        mine, other = getattr(one, name).state_dict(), getattr(two, name).state_dict()
        assert all(torch.equal(mine[key], other[key]) for key in mine)


def test_more_latents_at_once_than_there_are_is_refused() -> None:
    values = {"diff": {"d_sae": 8, "k": 9, "training_tokens": 100}}
    with pytest.raises(SettingError, match="k of a crosscoder is 9, but it should be at most d_sae = 8"):
        read(Transfer, values, "transfer")


def test_the_shortest_run_has_a_recipe() -> None:
    recipe = recipe_of(Diff(d_sae=8, training_tokens=1, k=1.0))
    assert (recipe.lr_warm_up_steps, recipe.lr_decay_steps, recipe.dead_after_tokens) == (0, 0, 1)
