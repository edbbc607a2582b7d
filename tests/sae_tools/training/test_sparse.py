"""Sparse sums against dense products, gradients against finite differences, block-wise top-k against torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sae_tools.training.sparse import GROUP, Entries, above, by_sample, decode, encode, pre_activations, top_k

N, D_IN, D_SAE = 6, 5, 11


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MASKS = {
    "some": random(N, D_SAE) > 0.5,
    "first, last and middle samples without": (random(N, D_SAE) > 0.5) & (torch.arange(N) % 3 == 1)[:, None],
    "none": torch.zeros(N, D_SAE, dtype=torch.bool),
    "all": torch.ones(N, D_SAE, dtype=torch.bool),
}


def entries_of(mask: Tensor) -> Entries:
    return by_sample(*mask.nonzero(as_tuple=True), *mask.shape)


@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_encode_is_the_dense_product_where_there_are_entries(mask: Tensor, subtracts: bool) -> None:
    entries, inputs = entries_of(mask), random(N, D_IN)
    W, b_enc, b_dec = (
        random(*shape, seed=i).requires_grad_() for i, shape in enumerate([(D_SAE, D_IN), (D_SAE,), (D_IN,)])
    )

    def values(W: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
        x = inputs - b_dec if subtracts else inputs
        return encode(x.detach(), W, b_enc, b_dec if subtracts else None, entries)

    def dense(W: Tensor, b_enc: Tensor, b_dec: Tensor) -> Tensor:
        return ((inputs - b_dec if subtracts else inputs) @ W.T + b_enc)[mask]

    same_with_gradients(values, dense, W, b_enc, b_dec)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_decode_is_the_dense_product(mask: Tensor) -> None:
    entries = entries_of(mask)
    values, W_dec = random(int(mask.sum())).requires_grad_(), random(D_SAE, D_IN, seed=1).requires_grad_()

    def dense(values: Tensor, W_dec: Tensor) -> Tensor:
        return torch.zeros(N, D_SAE, dtype=torch.float64).masked_scatter(mask, values) @ W_dec

    same_with_gradients(lambda values, W_dec: decode(values, W_dec, entries), dense, values, W_dec)


def same_with_gradients(ours: object, theirs: object, *inputs: Tensor) -> None:
    out, expected = ours(*inputs), theirs(*inputs)  # type: ignore[operator]
    torch.testing.assert_close(out, expected)
    weights = random(*out.shape, seed=9)
    found = torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad((expected * weights).sum(), inputs, allow_unused=True)
    for gradient, truth in zip(found, wanted, strict=True):
        torch.testing.assert_close(gradient, truth)


def test_two_bags_of_a_sample_add_up_apart() -> None:
    mask = MASKS["some"]
    samples, latents = mask.nonzero(as_tuple=True)
    bags = 2 * samples + (latents >= 4).long()
    values, W_dec = random(len(samples)), random(D_SAE, D_IN, seed=1)
    out = decode(values, W_dec, Entries(samples, latents, bags, 2 * N, D_SAE)).view(N, 2, D_IN)
    acts = torch.zeros(N, D_SAE, dtype=torch.float64).masked_scatter(mask, values)
    torch.testing.assert_close(out[:, 0], acts[:, :4] @ W_dec[:4])
    torch.testing.assert_close(out[:, 1], acts[:, 4:] @ W_dec[4:])


def test_finite_differences_agree() -> None:
    entries = entries_of(MASKS["some"])
    n = len(entries.latents)
    x, W, b = random(N, D_IN), random(D_SAE, D_IN).requires_grad_(), random(D_SAE).requires_grad_()
    torch.autograd.gradcheck(lambda W, b: encode(x, W, b, None, entries), (W, b))
    torch.autograd.gradcheck(lambda v, W: decode(v, W, entries), (random(n).requires_grad_(), W))


def test_pre_activations_come_in_chunks_that_cover_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_tools.training.sparse.CHUNK", 80 * D_SAE)
    x, W, b = random(150, D_IN).float(), random(D_SAE, D_IN).float(), random(D_SAE).float()
    parts = [(first, part.clone()) for first, part in pre_activations(x, W, b, torch.float32)]
    assert [first for first, _ in parts] == [0, 75]
    torch.testing.assert_close(torch.cat([part for _, part in parts]), x @ W.T + b)


# --- the choice ------------------------------------------------------------------------------------------------------


def together(n: int, d_sae: int) -> Tensor:
    """All large values lie in one group, another in each row."""
    pre = random(n, d_sae)
    for row in range(n):
        pre[row, row :: max(1, d_sae // GROUP)] += 100
    return pre


def apart(n: int, d_sae: int) -> Tensor:
    """Each group has one large value, and the largest of all is in the last."""
    pre = random(n, d_sae)
    n_groups = max(1, d_sae // GROUP)
    pre[:, :n_groups] += 100 + torch.arange(n_groups)
    return pre


def negative(n: int, d_sae: int) -> Tensor:
    return -random(n, d_sae).abs()


MAKES = [random, together, apart, negative]


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize(("d_sae", "k"), [(4096, 8), (4096, 32), (2048, 1), (4090, 8), (64, 64), (256, 3)])
def test_top_k_is_torch_s(make: Callable[..., Tensor], d_sae: int, k: int) -> None:
    pre = make(9, d_sae)
    found = top_k(pre, k)
    assert torch.equal(found.sort(dim=1).values, pre.topk(k).indices.sort(dim=1).values)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("d_sae", [4096, 4090, 8])
@pytest.mark.parametrize("bound", [-0.5, 2.0, 1000.0])
def test_above_finds_every_entry_by_rows(make: Callable[..., Tensor], d_sae: int, bound: float) -> None:
    pre = make(9, d_sae)
    rows, columns = above(pre, bound)
    assert bool((rows.diff() >= 0).all())
    found = torch.zeros_like(pre, dtype=torch.int).index_put_((rows, columns), torch.tensor(1, dtype=torch.int), True)
    assert torch.equal(found, (pre > bound).int())
