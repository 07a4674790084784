"""A frozen base in fewer bits, under a LoRA in full precision, for cards that the whole base does not fit.

Linear layers of the transformer's blocks that are not trained are kept in 8 bits, in 4 (NF4, of QLoRA, Dettmers et al.
2023, arXiv 2305.14314) or in float8, as torchao keeps them; modulation, patch embedding and everything outside the
blocks as in generation. A pass multiplies with the weights as they are kept, and its backward pass with the same
weights made whole again, a layer at a time, so nothing of full size is held in between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dsd.backbones.stock import StockBackbone
from dsd.errors import UserError, import_extra
from dsd.generate import fast, memory
from dsd.train.config import BasePrecision, TrainConfig

_BLOCK, _MOST_SCALES = 64, 256
"""Weights that share a scale in 4 bits, and the most scales that share one again."""
_BYTES: dict[BasePrecision, float] = {
    "8bit": 1 + 1 / 1024,
    "4bit": 0.5 + 1 / _BLOCK + 2 / (_BLOCK * _MOST_SCALES),
    "fp8": 1 + 1 / 1024,
}
"""Of a weight, with its share of the scales."""


class FrozenLinear(nn.Module):
    """A linear layer whose weights torchao keeps in fewer bits, with the right gradient to its inputs.

    Args:
        layer: whose weights, kept in fewer bits, and bias it takes; neither is trained.
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """As of the layer: (..., in_features) becomes (..., out_features)."""
        kind = inputs.device.type
        if torch.is_autocast_enabled(kind):
            inputs = inputs.to(torch.get_autocast_dtype(kind))
        result: Any = _Product.apply(inputs, self.weight, self.bias)
        return result


class _Product(torch.autograd.Function):
    """A product with frozen weights, of which the backward pass keeps what is kept of them anyway."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return functional.linear(inputs, weight, None if bias is None else bias.to(inputs.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,), (weight,) = gradients, ctx.saved_tensors
        return gradient @ whole(weight).to(gradient.dtype), None, None


def whole(weight: Tensor) -> Tensor:
    """The weights that some in fewer bits stand for, in their own precision."""
    kept: Any = weight
    return kept.get_original_weight() if hasattr(kept, "get_original_weight") else kept.dequantize()


def require_usable(config: TrainConfig, device: torch.device) -> None:
    """Makes sure that a base can be kept as a config says, before anything is loaded.

    Args:
        config: of the run.
        device: where it trains.

    Raises:
        UserError: torchao is missing, or the device or the precision cannot.
    """
    if config.base_precision == "full":
        return
    _quantization()
    if config.base_precision == "fp8":
        capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
        if (refused := no_float8(device, capability)) is not None:
            raise UserError(refused)


def no_float8(device: torch.device, capability: tuple[int, int] | None) -> str | None:
    """Why a run cannot multiply float8, in a sentence; None where it can.

    Args:
        device: where it trains.
        capability: of a CUDA device; None of others.
    """
    if capability is None or capability < fast.LEAST_CAPABILITY:
        where = f"{device}" if capability is None else f"{device} of compute capability {capability[0]}.{capability[1]}"
        return (
            "train.base_precision fp8 multiplies in float8, which takes an NVIDIA GPU of compute capability 8.9 or "
            f"higher (Ada, Hopper or later), but the device is {where}; give 8bit"
        )
    return None


def loaded_on(config: TrainConfig, device: torch.device) -> torch.device:
    """Where a base is loaded to: one that does not fit whole goes to the device block by block, later."""
    return device if config.base_precision == "full" and config.offload == "none" else torch.device("cpu")


def quantise(backbone: StockBackbone, precision: BasePrecision, device: torch.device) -> None:
    """Makes what is not trained of a transformer's blocks smaller on its way to the device; the rest follows whole.

    Args:
        backbone: on the CPU, with its adapter attached.
        precision: ``full`` moves and changes nothing.
        device: where it trains.
    """
    if precision == "full":
        return
    make, eight = _makers(precision)
    for block in memory.block_by_block(backbone, device):
        for name, layer in list(block.named_modules()):
            if is_kept_smaller(layer, name):
                assert isinstance(layer, nn.Linear)
                (make if fast.multiplies(layer, name) else eight)(layer)
                block.set_submodule(name, FrozenLinear(layer))
    for part in backbone.pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(device)


def is_kept_smaller(layer: nn.Module, name: str) -> bool:
    """Whether a layer is one of those that fewer bits are for: linear, of sides that kernels take, and not trained.

    Args:
        layer: of a block whose adapter is attached.
        name: inside the block.
    """
    return (fast.multiplies(layer, name) or fast.modulates(layer, name)) and not any(
        parameter.requires_grad for parameter in layer.parameters()
    )


def weight_bytes(backbone: StockBackbone, precision: BasePrecision, each: int) -> float:
    """What the weights of a transformer take that is not trained, by count.

    Args:
        backbone: with its adapter attached; may be on the meta device.
        precision: of the linear layers in its blocks.
        each: bytes of any other weight.
    """
    transformer = backbone.transformer
    total = float(each * sum(p.numel() for p in transformer.parameters() if not p.requires_grad))
    if precision == "full":
        return total
    for block in backbone.blocks:
        for name, layer in block.named_modules():
            if is_kept_smaller(layer, name):
                assert isinstance(layer, nn.Linear)
                kept = precision if fast.multiplies(layer, name) else "8bit"
                total += layer.weight.numel() * (_BYTES[kept] - each)
    return total


def _makers(precision: BasePrecision) -> tuple[Callable[[nn.Linear], None], Callable[[nn.Linear], None]]:
    """What makes layers that multiply tokens smaller, and what makes the modulation smaller."""
    quantization = _quantization()

    def by(config: Any) -> Callable[[nn.Linear], None]:
        return lambda layer: quantization.quantize_(layer, config, filter_fn=lambda module, name: module is layer)

    def four(layer: nn.Linear) -> None:
        weight = layer.weight.detach()
        kept = quantization.to_nf4(weight, _BLOCK, _scales_together(weight.numel() // _BLOCK))
        layer.weight = nn.Parameter(kept, requires_grad=False)

    eight = by(quantization.Int8WeightOnlyConfig())
    if precision == "4bit":
        return four, eight
    if precision == "fp8":
        return by(fast.float8_config(quantization)), eight
    assert precision in get_args(BasePrecision)
    return eight, eight


def _scales_together(scales: int) -> int:
    """How many of so many scales share one again: the largest power of two that divides them, up to the most."""
    return min(_MOST_SCALES, scales & -scales)


def _quantization() -> Any:
    return import_extra("torchao.quantization", fast.EXTRA)
