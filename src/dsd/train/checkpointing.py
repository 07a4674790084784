"""Gradient checkpointing: what a transformer block keeps for the backward pass, and what is computed again.

``full`` keeps the inputs of each block alone (diffusers' own). ``selective`` also keeps the results of attention and of
all linear layers but those into the wide middle of feed-forwards, so that only these, norms and activations are
computed again: about a third of the additional time of ``full`` (torch's selective activation checkpointing, as in
torchtitan).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from dsd.backbones.stock import StockBackbone
from dsd.train import compiled
from dsd.train.config import Auto, Checkpointing

_aten: Any = torch.ops.aten
_ATTENTION = frozenset(
    getattr(_aten, f"_scaled_dot_product_{kernel}").default
    for kernel in ("cudnn_attention", "flash_attention", "flash_attention_for_cpu", "efficient_attention")
)
_PRODUCTS = {_aten.mm.default: lambda left, right: right.shape[-1],
             _aten.addmm.default: lambda bias, left, right: right.shape[-1],
             _aten.linear.default: lambda left, weight, *bias: weight.shape[0]}  # fmt: skip
"""How wide the result of each is, of its inputs."""


def checkpoint_gradients(backbone: StockBackbone, level: Checkpointing | Auto) -> None:
    """Has the blocks of a transformer keep less for the backward pass; outputs and gradients stay the same.

    Blocks that were compiled run as they are written again.

    Args:
        backbone: whose transformer it is.
        level: see the module; ``auto``, until it is chosen, is ``off``.
    """
    transformer = backbone.transformer
    assert isinstance(transformer, ModelMixin)
    compiled.restore_blocks(backbone)
    if level in ("off", "auto"):
        transformer.disable_gradient_checkpointing()
    elif level == "full":
        transformer.enable_gradient_checkpointing()
    else:
        transformer.enable_gradient_checkpointing(partial(_block_again, _selective(backbone)))


def compile_and_checkpoint(backbone: StockBackbone, level: Checkpointing, **options: Any) -> None:
    """Likewise with blocks that are compiled, so that the compiler sees what is computed again.

    Args:
        backbone: with its adapter attached.
        level: see the module.
        **options: see `dsd.train.compiled.compile_blocks`.
    """
    checkpoint_gradients(backbone, "off")
    again = {"off": None, "full": _again, "selective": partial(_again, contexts=_selective(backbone))}
    compiled.compile_blocks(backbone, again[level], **options)


def _selective(backbone: StockBackbone) -> Callable[[], Any]:
    weight = backbone.transformer.get_parameter(f"{backbone.layers.patch_embedding}.weight")
    return partial(create_selective_checkpoint_contexts, partial(_policy, len(weight)))


def _block_again(contexts: Callable[[], Any], block: nn.Module, *inputs: Any) -> Any:
    return _again(block.__call__, *inputs, contexts=contexts)


def _again(run: Callable[..., Any], *inputs: Any, contexts: Callable[[], Any] | None = None, **named: Any) -> Any:
    more = {} if contexts is None else {"context_fn": contexts}
    return checkpoint(run, *inputs, use_reentrant=False, **more, **named)


def _policy(width: int, context: object, operation: Any, *inputs: Any, **_: Any) -> CheckpointPolicy:
    """Keeps what took long to compute and is no wider than the residual stream."""
    wide = _PRODUCTS.get(operation)
    if operation in _ATTENTION or (wide is not None and wide(*inputs) <= width):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
