"""Models on devices that are too small for them: what is kept where, and in how many bits, by what is free."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import nn

from dsd.backbones import cost
from dsd.backbones.stock import StockBackbone
from dsd.config import did_you_mean
from dsd.errors import UserError, import_extra
from dsd.generate import fast

if TYPE_CHECKING:
    from dsd.backbones.cost import Shape
    from dsd.generate.two_frame import TwoFramePipeline

Kind = Literal["none", "model", "8bit", "4bit", "group", "sequential"]
"""From the quickest to the smallest, as `choose` goes."""
Memory = Literal["auto", "none", "model", "group", "sequential", "8bit", "4bit"]
WORKING = 2 * 2**30
"""Bytes that drawing takes beside the weights, with some to spare: one H200 held 23.7 GiB for a transformer and an
autoencoder of 22.3 GiB of weights, at a canvas of 512x1024."""
_GROUP = 128  # weights of a row that share a scale in 4 bits
_BYTES = {"8bit": (1 + 1 / 1024, 1 + 1 / 1024), "4bit": (0.5 + 4 / _GROUP, 1 + 1 / 1024)}
"""Of a weight, with its scale: of the layers that multiply tokens, and of the modulation, which stays in 8 bits."""
_LEAST_FOR_4_BITS = (8, 0)  # compute capability
_COSTS: Mapping[Kind, str] = {
    "none": "the whole model stays on the device, which costs nothing",
    "model": "one component at a time is on the device, which costs the way of each there and back a picture",
    "8bit": "the transformer stays on the device in 8 bits and text encoders come layer by layer, which costs a "
    "rounding of its weights to 256 levels and the way of the text encoders a prompt",
    "4bit": "the transformer stays on the device in 4 bits (modulation in 8) and text encoders come layer by layer, "
    "which costs a rounding of its weights to 16 levels and the way of the text encoders a prompt",
    "group": "layers come to the device while those before them compute, which costs the way of the whole transformer "
    "a step",
    "sequential": "layers come to the device one after the other, nothing computes meanwhile, the slowest of all",
}


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a model takes.

    Attributes:
        multiplying: weights of linear layers in the transformer's blocks, without the modulation.
        modulating: weights of the modulation's linear layers in blocks.
        rest: all other parameters of the transformer.
        text: parameters of each text encoder.
        vae: parameters of the autoencoder.
        layer: parameters of the largest single layer of all networks.
        each: bytes of a parameter.
        working: bytes beside the weights.
    """

    multiplying: int
    modulating: int
    rest: int
    text: tuple[int, ...]
    vae: int
    layer: int
    each: int = 2
    working: int = WORKING

    @classmethod
    def of(cls, backbone: StockBackbone, text: Mapping[str, nn.Module], vae: nn.Module, each: int = 2) -> Need:
        """Counts networks, which may be on the meta device.

        Args:
            backbone: with its transformer.
            text: encoders by their names.
            vae: the autoencoder.
            each: bytes of a parameter.
        """
        transformer = backbone.transformer
        inside: list[tuple[str, Any]] = [
            (name, layer) for block in backbone.blocks for name, layer in block.named_modules()
        ]
        multiplying = sum(layer.weight.numel() for name, layer in inside if fast.multiplies(layer, name))
        modulating = sum(layer.weight.numel() for name, layer in inside if fast.modulates(layer, name))
        return cls(
            multiplying=multiplying,
            modulating=modulating,
            rest=cost.count(transformer) - multiplying - modulating,
            text=tuple(cost.count(encoder) for encoder in text.values()),
            vae=cost.count(vae),
            layer=max(_largest(network) for network in (transformer, vae, *text.values())),
            each=each,
        )

    @classmethod
    def of_pipeline(cls, pipeline: Any) -> Need:
        """Counts what a pipeline holds."""
        backbone = pipeline.backbone
        return cls.of(backbone, _encoders(pipeline), pipeline.vae, backbone.transformer.dtype.itemsize)

    @classmethod
    def of_shape(cls, shape: Shape, each: int = 2) -> Need:
        """Counts a model on the meta device, such as one that is published."""
        return cls.of(shape.backbone, shape.text, shape.vae, each)

    @property
    def transformer(self) -> int:
        """Its parameters."""
        return self.multiplying + self.modulating + self.rest

    def bytes_of(self, kind: Kind) -> int:
        """What has to be free on the device."""
        if kind == "none":
            weights = self.each * (self.transformer + self.vae + sum(self.text))
        elif kind == "model":
            weights = self.each * max(self.transformer, self.vae, *self.text)
        elif kind == "group":  # a layer, the next one on its way, the last one not yet given back
            weights = 3 * self.each * self.layer
        elif kind == "sequential":
            weights = self.each * self.layer
        else:
            multiplying, modulating = _BYTES[kind]
            fixed = self.each * (self.rest + self.vae + 2 * self.layer)
            weights = round(multiplying * self.multiplying + modulating * self.modulating) + fixed
        return weights + self.working


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a model is kept.

    Attributes:
        kind: what is done.
        needs: bytes of the device, by count.
        sentence: what was chosen and what it costs, to be shown.
    """

    kind: Kind
    needs: int
    sentence: str


def choose(free_bytes: int, need: Need, *, four_bits: bool = True) -> Plan:
    """The quickest way to keep a model that fits; where none does, the smallest.

    Args:
        free_bytes: of the device.
        need: of the model.
        four_bits: whether the device has kernels for 4 bits.
    """
    kinds = [kind for kind in get_args(Kind) if four_bits or kind != "4bit"]
    kind = next((kind for kind in kinds if need.bytes_of(kind) <= free_bytes), kinds[-1])
    tight = "" if need.bytes_of(kind) <= free_bytes else "; even that may be too much"
    what = f"memory {kind}: {_COSTS[kind]}"
    numbers = f"needs {_gib(need.bytes_of(kind))} of {_gib(free_bytes)} that are free, all of it would need"
    return Plan(
        kind=kind, needs=need.bytes_of(kind), sentence=f"{what} ({numbers} {_gib(need.bytes_of('none'))}){tight}"
    )


def place(pipeline: TwoFramePipeline, device: torch.device | str, memory: Memory = "auto") -> Plan:
    """Puts a pipeline on a device, whole or as `memory` says.

    Weights are made smaller block by block on their way, so that all of them never have to fit. A LoRA is fused before.

    Args:
        pipeline: on the CPU.
        device: where to compute.
        memory: ``auto`` goes by what is free on the device, and is ``none`` on a CPU.

    Returns:
        What was done; its sentence is for the user.

    Raises:
        UserError: a memory that is not known, 4 bits where no kernel is, layer after layer to a CPU, no torchao, or a
            LoRA that is not fused.
    """
    if memory not in get_args(Memory):
        hint = did_you_mean(str(memory), get_args(Memory))
        raise UserError(f'memory is "{memory}", which is no way to keep a model; {hint}')
    device, need = torch.device(device), Need.of_pipeline(pipeline)
    refusal = no_four_bits(device, _capability(device), pipeline.backbone.transformer.dtype)
    if memory == "auto":
        plan = _automatic(device, need, four_bits=refusal is None)
    else:
        plan = Plan(kind=memory, needs=need.bytes_of(memory), sentence=f"memory {memory}: {_COSTS[memory]}")
    if plan.kind == "4bit" and refusal is not None:
        raise UserError(refusal)
    if plan.kind == "sequential" and device.type == "cpu":
        raise UserError("memory sequential moves layers to a GPU and back, but the device is the CPU; give memory none")
    _apply(pipeline, device, plan.kind)
    return plan


def no_four_bits(device: torch.device, capability: tuple[int, int] | None, dtype: torch.dtype) -> str | None:
    """Why a model cannot be kept in 4 bits on a device, in a sentence; None where it can.

    Args:
        device: where to compute.
        capability: of a CUDA device; None of others.
        dtype: of the model.
    """
    where = f"{device} of compute capability {capability[0]}.{capability[1]}" if capability else f"{device}"
    if capability is None or capability < _LEAST_FOR_4_BITS:
        return (
            f"memory 4bit has kernels for NVIDIA GPUs of compute capability 8.0 or higher, but not for {where}; give "
            "memory 8bit"
        )
    if dtype != torch.bfloat16:
        name = str(dtype).removeprefix("torch.")
        return f"the model was loaded in {name}, but memory 4bit takes bfloat16 models; load it with bfloat16"
    return None


def _automatic(device: torch.device, need: Need, *, four_bits: bool) -> Plan:
    if device.type != "cuda":
        return Plan(kind="none", needs=need.bytes_of("none"), sentence=f"memory none: {_COSTS['none']}")
    return choose(torch.cuda.mem_get_info(device)[0], need, four_bits=four_bits)


def _apply(pipeline: Any, device: torch.device, kind: Kind) -> None:
    if kind == "none":
        pipeline.to(device)
    elif kind == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif kind == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    elif kind == "group":
        pipeline.enable_group_offload(
            onload_device=device, offload_type="leaf_level", use_stream=device.type == "cuda", low_cpu_mem_usage=True
        )
    else:
        _made_smaller(pipeline, device, kind)


def _made_smaller(pipeline: Any, device: torch.device, kind: Literal["8bit", "4bit"]) -> None:
    """The transformer in fewer bits, block by block, and text encoders that come layer by layer."""
    from diffusers.hooks import apply_group_offloading

    backbone = pipeline.backbone
    transformer = backbone.transformer
    fast.require_fused(transformer)
    quantization: Any = import_extra("torchao.quantization", fast.EXTRA)
    eight = quantization.Int8WeightOnlyConfig()
    four = quantization.Int4WeightOnlyConfig(group_size=_GROUP, int4_packing_format="tile_packed_to_4d")
    for block in block_by_block(backbone, device):
        if kind == "4bit":
            quantization.quantize_(block, four, filter_fn=fast.multiplies)
        quantization.quantize_(block, eight, filter_fn=_is_left)  # the modulation, and rows that no group divides
    transformer.to(device)
    pipeline.vae.to(device)
    for encoder in _encoders(pipeline).values():
        apply_group_offloading(encoder, onload_device=device, offload_type="leaf_level")


def block_by_block(backbone: StockBackbone, device: torch.device) -> Iterator[nn.Module]:
    """The blocks of a transformer, each of them on the device, to be made smaller before the next one comes."""
    for block in backbone.blocks:
        yield block.to(device)


def _encoders(pipeline: Any) -> dict[str, nn.Module]:
    parts = {name: getattr(pipeline, name) for name in pipeline.backbone.text_components}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _is_left(layer: nn.Module, name: str) -> bool:
    return fast.is_linear(layer)


def _largest(network: nn.Module) -> int:
    own = [sum(p.numel() for p in layer.parameters(recurse=False)) for layer in network.modules()]
    return max(own)


def _capability(device: torch.device) -> tuple[int, int] | None:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
