"""What a training run costs: an estimate to plan with, not a promise.

Parameters and operations are counted on the model itself, on the meta device; activations are a rule of thumb, and a
chat model's share of the curation is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dsd.backbones.cost import Shape
from dsd.train.adapter import attach, attach_all
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import TrainConfig
from dsd.train.offload import streamed_bytes
from dsd.train.quantised import weight_bytes

_FRAMES = 2
_ACTIVATIONS_PER_BLOCK = 17
"""Values a transformer block keeps per token and channel (Korthikanti et al. 2022, arXiv 2205.05198, eq. 1, in which
each takes two bytes, without the term of plain attention)."""
_KEPT = {"off": _ACTIVATIONS_PER_BLOCK, "selective": 8, "full": 1}
"""Likewise where some are computed again: queries, keys, values, results of attention and of both output layers."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimates for one training run.

    Attributes:
        trained_parameters: Weights that the optimizer moves.
        memory: Bytes on each device.
        encoding: Bytes on each device while pictures and captions are encoded, before that.
        operations: Floating-point operations of the whole run.
    """

    trained_parameters: int
    memory: dict[str, float]
    encoding: float
    operations: float


def training_cost(config: TrainConfig, shape: Shape, *, frame: tuple[int, int], devices: int) -> Cost:
    """Estimates a training run.

    Args:
        config: Of the run.
        shape: Of its base; its transformer is widened and gets the adapter, so use it once.
        frame: (height, width) of a frame in pixels.
        devices: That share the batch.
    """
    image_tokens = _FRAMES * shape.backbone.tokens_per(*frame)
    text_tokens = config.max_sequence_length
    frozen_bytes = 2 if config.mixed_precision == "bf16" else 4
    trained = _trained(config, shape)
    checkpoint_gradients(shape.backbone, config.gradient_checkpointing)
    samples = max(1, config.batch_size // (config.gradient_accumulation * devices))
    token_bytes = (image_tokens + text_tokens) * shape.width * frozen_bytes * samples
    kept = _KEPT[config.gradient_checkpointing] * shape.blocks
    if config.gradient_checkpointing == "full":
        kept += _ACTIVATIONS_PER_BLOCK  # of the block that is computed again
    return Cost(
        trained_parameters=trained,
        memory={
            "transformer": _weights(config, shape, frozen_bytes),
            "trained weights, gradients, optimizer": trained * 16.0 + (trained * 4.0 if config.ema_decay else 0.0),
            "activations": float(kept * token_bytes),
            "autoencoder, for samples": float(shape.vae_parameters * frozen_bytes),
            **({"text encoders": float(shape.text_parameters * frozen_bytes)} if config.text_cache == "live" else {}),
        },
        encoding=float((shape.text_parameters + shape.vae_parameters) * frozen_bytes),
        operations=shape.training_operations(frame, _FRAMES, text_tokens) * config.batch_size * config.steps,
    )


def _weights(config: TrainConfig, shape: Shape, each: int) -> float:
    if config.offload == "blocks":
        return streamed_bytes(shape.backbone, each)
    return weight_bytes(shape.backbone, config.base_precision, each)


def _trained(config: TrainConfig, shape: Shape) -> int:
    backbone = shape.backbone
    backbone.widen()
    if config.full:
        adapter = attach_all(backbone.transformer)
    else:
        adapter = attach(backbone.transformer, backbone.layers, rank=config.rank, targets=config.lora_targets, seed=0)
    return sum(parameter.numel() for parameter in adapter.parameters.values())
