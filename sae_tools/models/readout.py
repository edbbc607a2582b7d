"""The straight way from a site to the logits, past all that later blocks compute from it.

    logits += W_U · (γ ∘ M d)    for a direction d at the site

M leads to the residual stream: nothing for what is added to it as it is, a linear map for what such a map reads, and
the weights of a norm that follows it (Gemma 2, OLMo 2). γ are the final norm's weights. The norms' scaling is left
out, it only multiplies all logits; so is the unembedding's bias.

Which norm is the last, and whether a module's output is added as it is, is measured in a pass over a few tokens: it
holds for any family, and where it cannot be seen there is no answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from sae_tools.common.errors import InputError
from sae_tools.models.hooks import edited, first_tensor
from sae_tools.models.sites import MODULE, Family, Side, Site

TOLERANCE = 0.05
"""Share of a push that may be lost on its way through a block: bfloat16 rounds to 0.004 of the stream."""

Map = Callable[[Tensor], Tensor]
Pass = Callable[[], Any]
"""One pass of the model over a few tokens."""


def straight_way(model: nn.Module, site: Site, family: Family | None, run: Pass) -> Map:
    """The map γ ∘ M, from (n, d) directions at a site to what the unembedding reads.

    Raises:
        InputError: the site is not seen to lead to the logits in such a way.
    """
    refusal = InputError(f"the direct effect of {site.name!r} on the logits is not known")
    found = re.match(r"(.+?)\.\d+(\.|$)", site.path)
    blocks = model.get_submodule(found[1]) if found else None
    if site.layer is None or not isinstance(blocks, nn.ModuleList):
        raise InputError(f"{refusal}: it lies in no block.")
    norm = _final_norm(model, blocks, run)
    if norm is None:
        raise InputError(f"{refusal}: no norm stands between the last block and the unembedding, and nothing else.")
    module, maps = model.get_submodule(site.path), list[Map]()
    if site.side == "input" and isinstance(module, nn.Linear | Conv1D):
        maps.append(lambda d: d @ matrix(module).T.to(d.device))
        if family and site.kind != MODULE and (after := _norm_after(site, family)):
            maps.append(weights_of_norm(model.get_submodule(after)))
    side: Side = "output" if maps else site.side
    if site.kind == MODULE and module not in set(blocks) and not _adds(blocks[site.layer], module, side, run):
        raise InputError(f"{refusal}: what stands there is not added to the residual stream as it is.")
    if isinstance(norm, nn.LayerNorm):
        maps.append(lambda d: d - d.mean(dim=-1, keepdim=True))
    maps.append(weights_of_norm(norm))

    def way(directions: Tensor) -> Tensor:
        for each in maps:
            directions = each(directions)
        return directions

    return way


def matrix(linear: nn.Linear) -> Tensor:
    """(out, in) weights of a linear map, fetched by a call of it where they are offloaded."""
    weight: Tensor = linear.weight
    turned: Tensor = weight.T if isinstance(linear, Conv1D) else weight
    if not turned.is_meta:
        return turned
    one = torch.eye(turned.shape[1], dtype=turned.dtype)
    fetched: Tensor = (linear(one) - linear(torch.zeros_like(one[:1]))).T
    return fetched


def weights_of_norm(norm: nn.Module) -> Map:
    """Times a norm's weights, however its family stores them (Gemma adds 1): ±1 passes its scaling unchanged."""

    def scale(directions: Tensor) -> Tensor:
        probe = torch.ones_like(directions[0])
        probe[1::2] = -1
        gamma: Tensor = (norm(probe) - norm(torch.zeros_like(probe))).to(probe.device) / probe
        return directions * gamma

    return scale


def _norm_after(site: Site, family: Family) -> str | None:
    """Path of the norm between a hook's linear map and the residual stream, where a family has one."""
    adds, mixes = (family.mlp, family.mlp_down) if site.kind == "mlp.hook_post" else (family.attn, family.attn_mix)
    return None if mixes == adds or mixes.startswith(f"{adds}.") else f"{family.blocks}.{site.layer}.{adds}"


def _final_norm(model: nn.Module, blocks: nn.ModuleList, run: Pass) -> nn.Module | None:
    """The norm between what the blocks hand on, one to the next, and what the unembedding reads."""
    head = model.get_output_embeddings()  # type: ignore[operator]
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    with _recorded([head, *blocks, *norms]) as calls:
        run()
    if any(module not in calls for module in (head, *blocks)):
        return None
    handed_on = zip(blocks, list(blocks)[1:], strict=False)
    if not all(_same(calls[one][1], calls[next_one][0]) for one, next_one in handed_on):
        return None
    stream, reads = calls[blocks[-1]][1], calls[head][0]
    ends = [norm for norm in norms if norm in calls and _same(calls[norm][0], stream) and _same(calls[norm][1], reads)]
    return ends[0] if len(ends) == 1 else None


def _adds(block: nn.Module, module: nn.Module, side: Side, run: Pass) -> bool:
    """Whether a push there comes out of the block as it went in, while all that the block computes later is held."""
    children = list(block.children())
    with _recorded([block, *children]) as calls:
        run()
    before = calls[block][1]
    push = torch.randn(before.shape, generator=torch.Generator().manual_seed(0)).to(before) * before.float().std()
    order = [child for child in calls if child is not block]
    at = next((i for i, child in enumerate(order) if module in set(child.modules())), -1)

    def pushed(acts: Tensor) -> Tensor:
        return acts + push.reshape(acts.shape) if acts.numel() == push.numel() else acts

    with ExitStack() as hooks, _recorded([block]) as again:
        for child in order[at + 1 :]:
            given, gave = calls[child]
            if not _same(given, gave):  # dropout
                hooks.enter_context(edited(child, "output", partial(_instead, gave)))
        hooks.enter_context(edited(module, side, pushed))
        run()
    change, push = (again[block][1] - before).float().flatten(), push.float().flatten()
    share = (change @ push) / (push @ push)
    return bool(share > 0 and (change - share * push).norm() < TOLERANCE * share * push.norm())


def _instead(held: Tensor, _: Tensor) -> Tensor:
    return held.clone()


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.to(b.device), b)


@contextmanager
def _recorded(modules: list[nn.Module]) -> Iterator[dict[nn.Module, tuple[Tensor, Tensor]]]:
    """What each module was given and gave, in the order in which they ended, while the block lasts."""
    calls: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = args[0] if args else kwargs[first_tensor(kwargs)]
        gave = output[0] if isinstance(output, tuple) else output
        if isinstance(given, Tensor) and isinstance(gave, Tensor):
            calls[module] = given.clone(), gave.clone()

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()
