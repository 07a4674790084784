"""Attention that is right: kernels of `scaled_dot_product_attention` that a GPU gets wrong are found and left out.

On an H200 with torch 2.11 the backward pass of cuDNN's attention, the default there, gave NaN and illegal memory
accesses. A crash takes the whole process with it, so each kernel is tried in a process of its own.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dsd.devices import default_device
from dsd.errors import UserError
from dsd.log import console

Given = ParamSpec("Given")
Value = TypeVar("Value")
FUSED = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION")
"""Kernels in the order of torch's preference; the plain one, ``MATH``, is the measure of all and never left out."""
_SHAPES = ((2, 4, 304, 32), (1, 4, 80, 128))
"""(batch, heads, tokens, channels of a head): as of a small model, and of the heads of large ones."""
_TOLERANCE = 0.05
_SECONDS = 120
_FORWARD = "forward"


def is_right(kernel: str, device: torch.device | str, dtype: torch.dtype, *, backward: bool = True) -> bool:
    """Whether a kernel's output and its three gradients are finite and those of plain attention in float32.

    Args:
        kernel: name of a `torch.nn.attention.SDPBackend`.
        device: where to try it; one that cannot run it there is not right.
        dtype: of queries, keys and values.
        backward: False looks at the output alone, and runs no backward pass.
    """
    for shape in _SHAPES:
        generator = torch.Generator().manual_seed(0)
        query, key, value, towards = (torch.randn(shape, generator=generator).to(device, dtype) for _ in range(4))
        wanted = _attended("MATH", [x.float() for x in (query, key, value)], towards.float() if backward else None)
        try:
            found = _attended(kernel, [query, key, value], towards if backward else None)
        except RuntimeError:
            return False
        for one, other in zip(found, wanted, strict=True):
            error = (one.float() - other).norm() / other.norm()
            if not bool(error < _TOLERANCE):  # NaN is not
                return False
    return True


def _attended(kernel: str, inputs: Iterable[torch.Tensor], towards: torch.Tensor | None) -> list[torch.Tensor]:
    if towards is None:
        with torch.no_grad(), sdpa_kernel(SDPBackend.__members__[kernel]):
            query, key, value = inputs
            return [F.scaled_dot_product_attention(query, key, value)]
    query, key, value = inputs = [x.detach().requires_grad_(True) for x in inputs]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.__members__[kernel]):
        out = F.scaled_dot_product_attention(query, key, value)
    return [out.detach(), *torch.autograd.grad(out, inputs, towards)]


def tried_apart(kernel: str, *, backward: bool = True) -> bool:
    """`is_right` of a kernel on this machine's GPU in bfloat16, in a process of its own that may crash."""
    words = [kernel] if backward else [kernel, _FORWARD]
    try:
        ended = subprocess.run([sys.executable, "-m", __name__, *words], capture_output=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return False
    return ended.returncode == 0


def forward_tried_apart(kernel: str) -> bool:
    """Likewise of its output alone, for what only draws."""
    return tried_apart(kernel, backward=False)


@cache
def right_kernels(tried: Callable[[str], bool] = tried_apart) -> tuple[str, ...]:
    """Names of the kernels that a GPU gets right, plain attention last; says which are left out.

    Args:
        tried: whether a kernel is right.
    """
    wrong = [kernel for kernel in FUSED if not tried(kernel)]
    if wrong:
        console.print(f"attention without {', '.join(wrong)}: wrong or not to be had on this GPU", soft_wrap=True)
    return (*(kernel for kernel in FUSED if kernel not in wrong), "MATH")


def right_attention(device: torch.device | str, *, backward: bool = True) -> AbstractContextManager[object]:
    """While it lasts, attention runs in kernels that are right on this device; on a CPU in torch's own choice.

    Args:
        device: where it runs.
        backward: False for what only draws, which may use a kernel whose backward pass alone is wrong.
    """
    if torch.device(device).type != "cuda":
        return nullcontext()
    kernels = [
        SDPBackend.__members__[kernel] for kernel in right_kernels(tried_apart if backward else forward_tried_apart)
    ]
    return sdpa_kernel(kernels, set_priority=True)


def in_right_attention(function: Callable[Given, Value]) -> Callable[Given, Value]:
    """Decorates what trains: it runs in `right_attention` of the default device."""

    @wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        with right_attention(default_device()):
            return function(*args, **kwargs)

    return wrapped


def _main(words: list[str]) -> int:
    if not words or words[0] not in FUSED or words[1:] not in ([], [_FORWARD]):
        raise UserError(f'got {words}; give one of {", ".join(FUSED)}, and "{_FORWARD}" where that is all')
    return 0 if is_right(words[0], "cuda", torch.bfloat16, backward=len(words) == 1) else 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
