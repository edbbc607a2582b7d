"""A hook on one module, for as long as the one forward pass that needs it: see or change what it is given or gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from sae_tools.common.errors import SettingError
from sae_tools.models.sites import Side


@contextmanager
def edited(module: nn.Module, side: Side, edit: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Pass the tensor that a module is given or gives, the first one if there are several, through `edit`.

    Raises:
        SettingError: in the pass, the module is given or gives no tensor.
    """

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args and isinstance(args[0], Tensor):
            return (edit(args[0]), *args[1:]), kwargs
        name = first_tensor(kwargs)
        return args, {**kwargs, name: edit(kwargs[name])}

    def after(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple) and isinstance(output[0], Tensor):
            return (edit(output[0]), *output[1:])
        if not isinstance(output, Tensor):
            raise SettingError(f"a {type(module).__name__} gives a {type(output).__name__}, and a tensor is expected.")
        return edit(output)

    if side == "input":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield
    finally:
        handle.remove()


def first_tensor(kwargs: dict[str, Any]) -> str:
    """The name of what a module is given to work on, where it is given by name."""
    names = ["hidden_states", *kwargs]
    found = next((name for name in names if isinstance(kwargs.get(name), Tensor)), None)
    if found is None:
        raise SettingError(f"a module is given {', '.join(kwargs) or 'nothing'}, and a tensor is expected.")
    return found
