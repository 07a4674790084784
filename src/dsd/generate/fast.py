"""Eight-bit arithmetic: the linear layers of a transformer's blocks in float8, on GPUs that multiply so."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dsd.errors import UserError, import_extra

if TYPE_CHECKING:
    from dsd.generate.two_frame import TwoFramePipeline

EXTRA = "speed"
"""What installs torchao."""
LEAST_CAPABILITY = (8, 9)
"""Of CUDA devices that multiply float8: Ada, Hopper and later."""
_MULTIPLE = 16  # of both sides of a matrix that the kernels multiply
_FLOAT8 = "Float8Tensor"
_MODULATION = "norm"  # a part of the names of linear layers that make shifts and scales of a timestep

Takes = Callable[[nn.Module, str], bool]


def quantise(pipeline: TwoFramePipeline) -> None:
    """Makes the linear layers inside the transformer's blocks multiply in float8; weights and activations by row.

    Patch and text embedding, modulation, norms and the last projection stay as they are. The pipeline is on its GPU
    already, its adapter fused, and nothing compiled.

    Args:
        pipeline: in bfloat16, on a CUDA device of compute capability 8.9 or higher.

    Raises:
        UserError: the device cannot, torchao is missing, the adapter is not fused, or the precision is another.

    What is in float8 already stays as it is.
    """
    transformer = pipeline.backbone.transformer
    if (refused := refusal(pipeline)) is not None:
        raise UserError(refused)
    require_fused(transformer)
    if transformer.dtype != torch.bfloat16:
        name = str(transformer.dtype).removeprefix("torch.")
        raise UserError(f"the model was loaded in {name}, but float8 takes bfloat16 models; load it with bfloat16")
    quantization: Any = import_extra("torchao.quantization", EXTRA)
    if kept := smaller(transformer) - {_FLOAT8}:
        raise UserError(
            f"the model's weights are kept in fewer bits already ({', '.join(sorted(kept))}), of which float8 is not "
            "made; give memory none with speed fast"
        )
    config = float8_config(quantization)
    for name in pipeline.backbone.layers.blocks:
        quantization.quantize_(transformer.get_submodule(name), config, filter_fn=multiplies)


def float8_config(quantization: Any) -> Any:
    """Weights and activations in float8, a scale a row.

    Args:
        quantization: torchao's module of that name.
    """
    return quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())


def refusal(pipeline: TwoFramePipeline) -> str | None:
    """Why the device that a pipeline computes on cannot multiply float8, in a sentence; None where it can."""
    device = pipeline.backbone.device
    return refused_on(device, *_facts(device))


def refused_on(device: torch.device, capability: tuple[int, int] | None, name: str) -> str | None:
    """Why a device cannot multiply float8, in a sentence; None where it can.

    Args:
        device: where the transformer is.
        capability: of a CUDA device; None of others.
        name: of the device.
    """
    if device.type == "cuda" and capability is not None and capability >= LEAST_CAPABILITY:
        return None
    what = name if capability is None else f"{name} (compute capability {capability[0]}.{capability[1]})"
    return (
        f"speed fast multiplies in float8, which takes an NVIDIA GPU of compute capability 8.9 or higher (Ada, Hopper "
        f"or later), but the model is on {what}; draw with speed lossless or turbo there"
    )


def multiplies(layer: nn.Module, name: str) -> bool:
    """Whether a layer of a block is one that `quantise` takes.

    Args:
        layer: any.
        name: inside the blocks.
    """
    return is_linear(layer) and _MODULATION not in name


def modulates(layer: nn.Module, name: str) -> bool:
    """Whether a layer of a block makes shifts and scales of a timestep."""
    return is_linear(layer) and _MODULATION in name


def is_linear(layer: nn.Module) -> bool:
    """Whether kernels of fewer bits take a layer whose weights are whole yet."""
    return (
        isinstance(layer, nn.Linear)
        and type(layer.weight.data) is Tensor
        and layer.in_features % _MULTIPLE == layer.out_features % _MULTIPLE == 0
    )


def smaller(network: nn.Module) -> set[str]:
    """Of which kinds weights are that are kept in fewer bits, as torchao calls them."""
    kinds = {type(parameter.data) for parameter in network.parameters()}
    return {kind.__name__ for kind in kinds if kind is not Tensor}


def require_fused(transformer: nn.Module) -> None:
    """Makes sure that no LoRA is beside the weights.

    Raises:
        UserError: one is.
    """
    if getattr(transformer, "peft_config", None):
        raise UserError(
            "a LoRA is loaded beside the weights, which cannot be made smaller under it; load the adapter with "
            "fuse=True, or call unload_lora_weights() first"
        )


def _facts(device: torch.device) -> tuple[tuple[int, int] | None, str]:
    if device.type != "cuda":
        return None, {"cpu": "the CPU"}.get(device.type, f"the device {device}")
    return torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
