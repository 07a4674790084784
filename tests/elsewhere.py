"""A device of its own without a GPU: real numbers that say they lie elsewhere, and refuse to meet those of the CPU.

Code that mixes devices runs unnoticed where there is but one. Within `elsewhere()` tensors may be made on, or moved to,
the device `ELSEWHERE`; an operation that mixes them with tensors of the CPU raises, as it does on a GPU, where single
numbers may come from anywhere and a tensor may be indexed by indices of the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
_ATEN = torch.ops.aten
_COPY = _ATEN.copy_.default
_INDEXED = {_ATEN.index.Tensor, _ATEN.index_put.default, _ATEN.index_put_.default, _ATEN._index_put_impl_.default}
_NUMBERS = {_ATEN._local_scalar_dense.default, _ATEN.equal.default}


class MixedDevices(RuntimeError):
    """An operation met tensors of both devices."""


class _There(Tensor):
    """A tensor of the other device; ``here`` holds its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> _There:
        made = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=ELSEWHERE,
        )  # fmt: skip
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _refuse_mixed(function, args, kwargs)
        device = {"device": torch.device("cpu")} if kwargs.get("device") is not None else {}
        found = function(*tree_map(_here, args), **tree_map(_here, kwargs) | device)
        if function in _NUMBERS or (function is _COPY and not isinstance(args[0], _There)):
            return found
        if function._schema.is_mutable:
            return args[0]
        return tree_map(_there, found)


def _refuse_mixed(function: Any, args: Any, kwargs: dict[str, Any]) -> None:
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    strangers = [x for x in tensors if not isinstance(x, _There) and x.ndim]
    if not strangers or function is _COPY or (function in _INDEXED and isinstance(args[0], _There)):
        return
    raise MixedDevices(f"{function} got tensors of two devices: {[(tuple(x.shape), str(x.device)) for x in tensors]}")


def _here(value: Any) -> Any:
    return value.here if isinstance(value, _There) else value


def _there(value: Any) -> Any:
    return _There(value) if isinstance(value, Tensor) and not isinstance(value, _There) else value


class _Makes(TorchDispatchMode):
    """Makes the tensors that operations ask for on the other device, with their numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") != ELSEWHERE or any(isinstance(x, _There) for x in tree_leaves(args)):
            return func(*args, **kwargs)
        return tree_map(_there, func(*args, **kwargs | {"device": torch.device("cpu")}))


class _Moves(TorchFunctionMode):
    """Makes tensors on the other device, and moves them to and fro, where Python asks for it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.cpu, Tensor.tolist):
            return func(_here(args[0]))
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], str | torch.device):
            kwargs, args = {**kwargs, "device": args[1]}, (args[0], *args[2:])
        if func is Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            kwargs, args = {**kwargs, "device": args[1].device, "dtype": args[1].dtype}, args[:1]
        if kwargs.get("device") is None:
            return func(*args, **kwargs)
        wanted = torch.device(kwargs.pop("device"))
        made = func(*tree_map(_here, args), **kwargs)
        return _there(made) if wanted == ELSEWHERE else made


@contextmanager
def elsewhere() -> Iterator[torch.device]:
    """While it lasts, tensors may lie on the device that it gives."""
    with torch.no_grad(), _Makes(), _Moves():
        yield ELSEWHERE


def fetched(value: Tensor) -> Tensor:
    """The numbers of a tensor of the other device."""
    assert isinstance(value, _There), "the result does not lie on the device of its inputs"
    return value.here
