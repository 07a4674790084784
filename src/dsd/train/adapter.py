"""What is trained of a transformer: LoRA (peft) on its layers and the widened patch embedding, or all of it.

A layer no wider than the rank is trained as it is: a LoRA of full rank is the weight itself, at a lower cost. The
widened patch embedding always is. Everything is exported in diffusers' control-LoRA format, where such a layer is an
exact LoRA of full rank.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn

from dsd.backbones.adapter import LowRank
from dsd.backbones.protocol import Layers
from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.train.shards import whole

_NAME = "default"


@dataclass(frozen=True)
class WholeLayer:
    """A layer that is trained whole, with its weights from before training."""

    layer: nn.Linear | nn.Conv2d
    base_weight: Tensor
    base_bias: Tensor | None

    def update(self) -> LowRank:
        """The exact change of full rank that leads from the base to the trained layer."""
        base_weight = self.base_weight.to(self.layer.weight.device)
        weight = whole(self.layer.weight.detach()) - base_weight
        if self.base_bias is None:
            return LowRank.exact(weight)
        assert self.layer.bias is not None
        return LowRank.exact(weight, whole(self.layer.bias.detach()) - self.base_bias.to(weight.device))


@dataclass(frozen=True)
class Adapter:
    """The trained part of a transformer.

    Attributes:
        parameters: all trained parameters by their name in the transformer.
        low_rank: names of the layers that carry a peft LoRA.
        whole: the layers that are trained whole.
    """

    transformer: nn.Module
    parameters: dict[str, nn.Parameter]
    low_rank: tuple[str, ...]
    whole: dict[str, WholeLayer]

    def updates(self, dtype: torch.dtype = torch.float32) -> dict[str, LowRank]:
        """The trained change of each layer, as `dsd.backbones.adapter.save_adapter` takes it.

        All processes that hold shards of the weights have to ask.
        """
        low_rank = {name: _peft_update(self.transformer.get_submodule(name)) for name in self.low_rank}
        found = low_rank | {name: layer.update() for name, layer in self.whole.items()}
        return {name: update.to(dtype) for name, update in found.items()}


def attach(
    transformer: nn.Module,
    layers: Layers,
    *,
    rank: int,
    targets: str | tuple[str, ...],
    seed: int,
    patch_embedding: bool = True,
) -> Adapter:
    """Freezes a transformer and makes its adapter trainable, in float32.

    Args:
        transformer: prepared for its flavour.
        layers: where things are in it.
        rank: of the LoRA; its scale is 1 (alpha = rank).
        targets: ``attention``, ``all-linear``, or ends of module names.
        seed: of the LoRA's initial values.
        patch_embedding: whether it is trained too, as one that was widened has to be.

    Returns:
        The adapter, which changes nothing yet.
    """
    transformer.requires_grad_(False)
    names = (*target_names(transformer, layers, targets), *([layers.patch_embedding] if patch_embedding else []))
    chosen = {name: transformer.get_submodule(name) for name in names}
    whole = {
        name: layer
        for name, layer in chosen.items()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
        and (name == layers.patch_embedding or min(layer.weight.shape) <= rank)
    }
    low_rank = tuple(name for name in chosen if name not in whole)
    if low_rank:
        biased = all(chosen[name].bias is not None for name in low_rank)  # only what has a bias can take one
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=_exactly(low_rank), lora_bias=biased)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inject_adapter_in_model(config, transformer, adapter_name=_NAME)
    for layer in whole.values():
        layer.float().requires_grad_(True)
    parameters = {name: p for name, p in transformer.named_parameters() if p.requires_grad}
    for parameter in parameters.values():
        parameter.data = parameter.data.float()
    kept = {name: WholeLayer(layer, layer.weight.detach().clone(), _copy(layer.bias)) for name, layer in whole.items()}
    return Adapter(transformer, parameters, low_rank, kept)


def attach_all(transformer: nn.Module) -> Adapter:
    """Makes all weights trainable, in float32: full fine-tuning."""
    transformer.float().requires_grad_(True)
    return Adapter(transformer, dict(transformer.named_parameters()), (), {})


def target_names(transformer: nn.Module, layers: Layers, targets: str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of the linear layers that a choice of targets means, in the model's order.

    Args:
        transformer: whose.
        layers: where things are in it.
        targets: see `attach`.

    Raises:
        UserError: a target matches no layer.
    """
    patch = layers.patch_embedding
    linear = [name for name, m in transformer.named_modules() if isinstance(m, nn.Linear) and name != patch]
    if targets == "all-linear":
        return tuple(linear)
    if targets == "attention":
        return tuple(name for name in linear if any(part in name for part in layers.attention))
    ends = (targets,) if isinstance(targets, str) else targets
    for end in ends:
        if not any(_ends(name, end) for name in linear):
            raise UserError(f'no linear layer ends in "{end}"; {did_you_mean(end, {_last(name) for name in linear})}')
    return tuple(name for name in linear if any(_ends(name, end) for end in ends))


def _peft_update(layer: Any) -> LowRank:
    scale, down, up = layer.scaling[_NAME], layer.lora_A[_NAME].weight, layer.lora_B[_NAME]
    bias = None if up.bias is None else whole(up.bias.detach()) * scale
    return LowRank(whole(down.detach()), whole(up.weight.detach()) * scale, bias)


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)


def _last(name: str) -> str:
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def _exactly(names: tuple[str, ...]) -> str:
    return "|".join(name.replace(".", r"\.") for name in names)


def _copy(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.detach().clone()
