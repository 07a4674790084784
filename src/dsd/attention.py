"""Attention that is right: kernels of `scaled_dot_product_attention` that a GPU gets wrong are found and left out.

On an H200 with torch 2.11 the backward pass of cuDNN's attention, the default there, gave NaN and illegal memory
accesses. A crash takes the whole process with it, so each kernel is tried in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from dsd.devices import default_device
from dsd.errors import UserError
from dsd.log import console

Given = ParamSpec("Given")
Value = TypeVar("Value")
FUSED = ("CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION")
"""Kernels in the order of torch's preference; the plain one, ``MATH``, is the measure of all and never left out."""


@dataclass(frozen=True)
class Attended:
    """What attention is given at once.

    Attributes:
        batch: samples.
        heads: of a sample.
        queries: tokens that look.
        keys: tokens that are looked at.
        channels: of a head.
        masked: whether there is a mask, which some kernels cannot take.
    """

    batch: int
    heads: int
    queries: int
    keys: int
    channels: int
    masked: bool = False

    def of(self, batch: int) -> Attended:
        """The same of so many samples."""
        return replace(self, batch=batch)


SMALL = (Attended(2, 4, 304, 304, 32), Attended(1, 4, 80, 80, 128))
"""As of a small model, and of the heads of large ones; what is tried where nothing more is known."""
_WITHIN: ContextVar[bool] = ContextVar("within right attention", default=False)
_TOLERANCE = 0.05
_SECONDS = 300
_SCORES_AT_ONCE = 2**27
"""How many scores plain attention, which keeps them all, is given at once."""
_Tensors = list[torch.Tensor]


class Seen(TorchFunctionMode):
    """While it is entered, notes what attention is given in place of computing it; what comes out is zero.

    Attributes:
        all: what was given, in order, each once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Attended] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query, key, value = (*args, *(kwargs[name] for name in ("query", "key", "value")[len(args) :]))[:3]
        mask = args[3] if len(args) > 3 else kwargs.get("attn_mask")
        batch, heads, queries, channels = query.shape
        seen = Attended(batch, heads, queries, key.shape[-2], channels, mask is not None)
        if seen not in self.all:
            self.all.append(seen)
        kind = query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else query.dtype
        return query.new_zeros((*query.shape[:-1], value.shape[-1]), dtype=dtype)


def is_right(
    kernel: str,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    given: Sequence[Attended] = SMALL,
    backward: bool = True,
) -> bool:
    """Whether a kernel's output and its three gradients are finite and those of plain attention in float32.

    Args:
        kernel: name of a `torch.nn.attention.SDPBackend`.
        device: where to try it; one that cannot run it there is not right.
        dtype: of queries, keys and values.
        given: what it has to be right for.
        backward: False looks at the output alone, and runs no backward pass.
    """
    return all(_is_right_for(kernel, torch.device(device), dtype, one, backward) for one in given)


def _is_right_for(kernel: str, device: torch.device, dtype: torch.dtype, given: Attended, backward: bool) -> bool:
    generator = torch.Generator(device).manual_seed(0)
    queries, keys = ((given.batch, given.heads, tokens, given.channels) for tokens in (given.queries, given.keys))
    query, key, value, towards = (
        torch.randn(shape, generator=generator, device=device).to(dtype) for shape in (queries, keys, keys, queries)
    )
    mask = None
    if given.masked:
        mask = torch.rand(given.queries, given.keys, generator=generator, device=device) < 0.9
    try:
        found = _attended(kernel, [query, key, value], towards if backward else None, mask)
    except RuntimeError:
        return False
    per_head = given.queries * given.keys
    heads = max(1, min(given.heads, _SCORES_AT_ONCE // per_head))
    for row in range(given.batch):
        for first in range(0, given.heads, heads):
            part = (slice(row, row + 1), slice(first, first + heads))
            inputs = [x[part].float() for x in (query, key, value)]
            wanted = _attended("MATH", inputs, towards[part].float() if backward else None, mask)
            for one, other in zip(found, wanted, strict=True):
                error = (one[part].float() - other).norm() / other.norm()
                if not bool(error < _TOLERANCE):  # NaN is not
                    return False
    return True


def _attended(
    kernel: str, inputs: Iterable[torch.Tensor], towards: torch.Tensor | None, mask: torch.Tensor | None
) -> _Tensors:
    more: dict[str, Any] = {} if mask is None else {"attn_mask": mask}
    if towards is None:
        with torch.no_grad(), sdpa_kernel(SDPBackend.__members__[kernel]):
            query, key, value = inputs
            return [F.scaled_dot_product_attention(query, key, value, **more)]
    query, key, value = inputs = [x.detach().requires_grad_(True) for x in inputs]
    with torch.enable_grad(), sdpa_kernel(SDPBackend.__members__[kernel]):
        out = F.scaled_dot_product_attention(query, key, value, **more)
    return [out.detach(), *torch.autograd.grad(out, inputs, towards)]


@dataclass(frozen=True)
class Apart:
    """Tries kernels on this machine's GPU, each in a process of its own that may crash.

    Attributes:
        given: what attention will be given.
        dtype: name of the precision, as torch knows it.
        backward: False looks at the output alone, for what only draws.
        device: the GPU; of several, the one that this process works on.
    """

    given: tuple[Attended, ...] = SMALL
    dtype: str = "bfloat16"
    backward: bool = True
    device: str = "cuda"

    def __call__(self, kernel: str) -> bool:
        """`is_right` of a kernel; False where its process crashed."""
        command = [sys.executable, "-m", __name__, kernel, json.dumps(asdict(self))]
        try:
            ended = subprocess.run(command, capture_output=True, timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            return False
        return ended.returncode == 0

    @property
    def said(self) -> str:
        """The largest of what attention will be given, in words."""
        most = max(self.given, key=lambda one: one.batch * one.heads * one.queries * one.keys)
        return f"{most.batch} x {most.queries} tokens, {most.heads} heads of {most.channels}, {self.dtype}"


TRAINS, DRAWS = Apart(), Apart(backward=False)
"""What is tried where nothing is known of the shapes."""


@cache
def right_kernels(tried: Callable[[str], bool] = TRAINS) -> tuple[str, ...]:
    """Names of the kernels that a GPU gets right, plain attention last; says in a line which are left out.

    Args:
        tried: whether a kernel is right.
    """
    right = [kernel for kernel in FUSED if tried(kernel)]
    wrong = [kernel for kernel in FUSED if kernel not in right]
    without = f"without {', '.join(wrong)}: wrong or not to be had on this GPU"
    if isinstance(tried, Apart) and tried.given != SMALL:
        chosen = (*right, "MATH")[0]
        console.print(f"attention ({tried.said}): {chosen}" + (f", {without}" if wrong else ""))
    elif wrong:
        console.print(f"attention {without}")
    return (*right, "MATH")


def right_attention(device: torch.device | str, tried: Apart = TRAINS) -> AbstractContextManager[object]:
    """While it lasts, attention runs in kernels that are right on this device; on a CPU in torch's own choice.

    Within another one, kernels that the other left out stay left out.

    Args:
        device: where it runs.
        tried: what it will be given, if that is known, and whether it will only draw: then it may use a kernel whose
            backward pass alone is wrong.
    """
    return nullcontext() if torch.device(device).type != "cuda" else only(right_kernels(tried))


@contextmanager
def only(kernels: Sequence[str]) -> Iterator[None]:
    """While it lasts, attention runs in those of some kernels that are allowed already, the first of them first."""
    allowed = {
        "CUDNN_ATTENTION": torch.backends.cuda.cudnn_sdp_enabled(),
        "FLASH_ATTENTION": torch.backends.cuda.flash_sdp_enabled(),
        "EFFICIENT_ATTENTION": torch.backends.cuda.mem_efficient_sdp_enabled(),
    }
    chosen = [SDPBackend.__members__[kernel] for kernel in kernels if allowed.get(kernel, True)]
    before = _WITHIN.set(True)
    try:
        with sdpa_kernel(chosen, set_priority=True):
            yield
    finally:
        _WITHIN.reset(before)


def in_right_attention(function: Callable[Given, Value]) -> Callable[Given, Value]:
    """Decorates what trains: it runs in `right_attention` of the default device, unless it does already."""

    @wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Value:
        with nullcontext() if _WITHIN.get() else right_attention(default_device()):
            return function(*args, **kwargs)

    return wrapped


def _main(words: list[str]) -> int:
    if len(words) != 2 or words[0] not in FUSED:
        raise UserError(f"got {words}; give one of {', '.join(FUSED)} and what is tried as JSON")
    kernel, told = words[0], json.loads(words[1])
    given = [Attended(**one) for one in told["given"]]
    right = is_right(kernel, told["device"], getattr(torch, told["dtype"]), given=given, backward=told["backward"])
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
