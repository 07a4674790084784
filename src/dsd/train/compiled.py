"""Transformer blocks that are compiled while they train, from outside: frozen weights, LoRA and all.

A block's ``forward`` is replaced by one compiled function that takes the block as an argument, so that all blocks of a
kind share what is compiled, and what wraps a block's call (hooks of a parallel run) stays outside of it. Shapes are
constants: a size of samples is compiled once. Whatever runs without gradients (sample sheets, held-out losses) runs as
it is written, so its batches compile nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from dsd.backbones.stock import StockBackbone

OPTIONS: dict[str, Any] = {"fullgraph": True, "dynamic": False, "recompile_limit": 128}
"""All blocks count together: a kind of block needs two compilations a size, for the first block's text needs no
gradient."""
Runs = Callable[..., Any]


def compile_blocks(backbone: StockBackbone, again: Runs | None = None, **options: Any) -> None:
    """Has blocks compiled at their first call with gradients.

    Args:
        backbone: with its adapter attached.
        again: runs a block so that it keeps less for the backward pass: ``again(forward, *inputs)``; None keeps all
            that the compiler wants to.
        **options: for `torch.compile`, in place of `OPTIONS`.
    """

    blocks = backbone.blocks
    compiled = {kind: torch.compile(_run(kind, again), **OPTIONS | options) for kind in map(type, blocks)}
    for block in blocks:
        block.forward = partial(_forward, compiled[type(block)], block)


def _run(kind: type[nn.Module], again: Runs | None) -> Runs:
    written: Runs = kind.forward
    return written if again is None else partial(again, written)


def is_compiled(backbone: StockBackbone) -> bool:
    """Whether blocks are compiled, or will be at their first call."""
    return all("forward" in vars(block) for block in backbone.blocks)


def restore_blocks(backbone: StockBackbone) -> None:
    """Has blocks run as they are written again."""
    for block in backbone.blocks:
        vars(block).pop("forward", None)


@contextmanager
def as_written() -> Iterator[None]:
    """While it lasts, nothing compiled runs and nothing is compiled."""
    with torch.compiler.set_stance("force_eager"):
        yield


def _forward(compiled: Runs, block: nn.Module, *inputs: Any, **named: Any) -> Any:
    run: Runs = compiled if torch.is_grad_enabled() else type(block).forward
    return run(block, *inputs, **named)
