"""LoRA files for FLUX.1 of any layout that diffusers reads, as low-rank changes with their scales multiplied in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights
from diffusers import FluxControlPipeline, FluxTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from dsd.backbones.adapter import LowRank
from dsd.backbones.stored import safetensors_of
from dsd.errors import UserError, reason_of

WIDENED = "x_embedder"
"""The layer whose inputs a control LoRA doubles."""
_PREFIX = "transformer."
_UNKNOWN = ("dora_scale", "lora_magnitude_vector", "lokr_", "hada_")  # diffusers drops some of them in silence


@dataclass(frozen=True)
class Lora:
    """What a LoRA file changes.

    Attributes:
        updates: Low-rank changes by layer, as the loader of diffusers weighs them.
        replaced: Tensors that take the place of the base's, such as the norms of control LoRAs of Black Forest Labs.
    """

    updates: dict[str, LowRank]
    replaced: dict[str, Tensor] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        """The largest rank of a layer; the patch embedding's counts only where there is nothing else."""
        ranks = {name: update.down.shape[0] for name, update in self.updates.items()}
        return max([rank for name, rank in ranks.items() if name != WIDENED] or ranks.values(), default=0)


def read_lora(path: Path, config: Mapping[str, Any]) -> Lora:
    """Reads a LoRA file as `FluxControlPipeline.load_lora_weights` would, into a transformer without weights.

    Args:
        path: A safetensors file with keys of diffusers or peft, kohya, XLabs or Black Forest Labs.
        config: Of the transformer that it changes.

    Raises:
        UserError: Missing, damaged, no LoRA for this transformer, or one with a part that would be lost.
    """
    raw, _ = safetensors_of(path)
    _require_plain(raw, path)
    try:
        state: Any = FluxControlPipeline.lora_state_dict(dict(raw))
    except (ValueError, KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise UserError(
            f'"{path}" has keys that diffusers does not know ({reason_of(error)}); give a LoRA for FLUX.1'
        ) from error
    with init_empty_weights():
        transformer: Any = FluxTransformer2DModel.from_config(dict(config))
    _require_layers(state, transformer, path)
    parts: Any = [None] * 6  # scheduler, autoencoder, text encoders, tokenizers
    pipeline = FluxControlPipeline(*parts, transformer=transformer)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that norms find no place in a transformer without weights
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name, local_files_only=True)
    except (ValueError, KeyError, TypeError, RuntimeError, NotImplementedError) as error:
        raise UserError(
            f'"{path}" does not fit this transformer ({reason_of(error)}); give the base that it was trained on'
        ) from error
    updates = {
        name: _change(state, name, layer) for name, layer in transformer.named_modules() if isinstance(layer, LoraLayer)
    }
    for name, update in updates.items():
        tensors = (update.down, update.up, update.bias)
        if not all(part.isfinite().all() for part in tensors if part is not None):
            raise UserError(f'"{path}" holds no finite numbers in {name}; copy the file again')
    norms = {
        key.removeprefix(_PREFIX): tensor for key, tensor in state.items() if "lora" not in key and ".norm_" in key
    }
    return Lora(updates, norms)


def _change(state: Mapping[str, Tensor], name: str, layer: Any) -> LowRank:
    """A layer's change: the scale that peft gives it goes into `up` and the bias, in float32 where it is not 1."""
    (scale,) = layer.scaling.values()  # the weights themselves went where the transformer is: nowhere

    def scaled(tensor: Tensor) -> Tensor:
        return tensor if scale == 1 else tensor.float() * scale

    down, up, bias = (state.get(f"{_PREFIX}{name}.lora_{part}") for part in ("A.weight", "B.weight", "B.bias"))
    assert down is not None and up is not None
    return LowRank(down, scaled(up), None if bias is None else scaled(bias))


def _require_plain(raw: Mapping[str, Tensor], path: Path) -> None:
    for key in raw:
        for kind in _UNKNOWN:
            if kind in key:
                raise UserError(f'"{path}" is more than a LoRA (it has {key}); give a plain LoRA')
        if key.startswith(("text_encoder", "lora_te", "text_encoders.")):
            raise UserError(f'"{path}" changes a text encoder ({key}), which an adapter cannot; give one that does not')


def _require_layers(state: Mapping[str, Tensor], transformer: nn.Module, path: Path) -> None:
    """What the transformer has no layer for would be left out with a message for programmers, or without one."""
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    own = set(transformer.state_dict())
    factors: dict[str, set[str]] = {}
    for key in state:
        name, _, kind = key.removeprefix(_PREFIX).rpartition(".lora_")
        if key.startswith(_PREFIX) and name in layers and kind in ("A.weight", "B.weight", "B.bias"):
            factors.setdefault(name, set()).add(kind)
        elif key.removeprefix(_PREFIX) not in own or ".norm_" not in key:
            raise UserError(f'"{path}" changes {key}, which this transformer does not have; give a LoRA for this base')
    for name, kinds in factors.items():
        if not kinds >= {"A.weight", "B.weight"}:
            raise UserError(f'"{path}" has one factor only of the layer {name}; copy the file again, whole')
        down, up = (state[f"{_PREFIX}{name}.lora_{part}.weight"] for part in "AB")
        outputs, inputs = layers[name].weight.shape
        fits = down.shape[0] == up.shape[1] and up.shape[0] == outputs and down.shape[1] == inputs
        if not fits and name != WIDENED:  # diffusers would widen others too, or fill them with zeros
            raise UserError(
                f'"{path}" does not fit this transformer: {name} takes factors of {tuple(down.shape)} and '
                f"{tuple(up.shape)}, but has {inputs} inputs and {outputs} outputs; give the base that it "
                "was trained on"
            )
    if not factors:
        raise UserError(f'"{path}" holds no LoRA; give a LoRA for FLUX.1')
