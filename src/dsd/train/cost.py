"""What a training run costs: an estimate to plan with and to choose by, not a promise.

Parameters and operations are counted on the model itself, on the meta device; activations are a rule of thumb, and a
chat model's share of the curation is left out. How fast a GPU works was measured on an H200 at the paper's size: a
sample takes its operations at 0.44 of the device's peak (0.55 of what large matrix products reach there), and a part of
a batch takes the time to start the kernels of all blocks, which compiled blocks have few of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import get_args

from dsd.backbones.cost import Shape
from dsd.backbones.stock import StockBackbone
from dsd.train.adapter import attach, attach_all
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import Checkpointing, TrainConfig
from dsd.train.offload import streamed_bytes
from dsd.train.quantised import weight_bytes

LEVELS: tuple[Checkpointing, ...] = get_args(Checkpointing)
"""From what is quickest to what needs least memory."""
_WORDS = {"off": "no checkpointing", "selective": "selective checkpointing", "full": "full checkpointing"}
_FRAMES = 2
_ACTIVATIONS_PER_BLOCK = 17
"""Values a transformer block keeps per token and channel (Korthikanti et al. 2022, arXiv 2205.05198, eq. 1, in which
each takes two bytes, without the term of plain attention); 16.5 at the paper's size, measured."""
_KEPT = {"off": _ACTIVATIONS_PER_BLOCK, "selective": 8, "full": 1}
"""Likewise where some are computed again: queries, keys, values, results of attention and of both output layers."""
_SELECTED = 0.385
"""Share of a forward pass that ``selective`` computes again; counted at the paper's size."""
_COMPILED = 0.8
"""Share of ``off`` that a compiled block keeps, for it computes quick things again; measured likewise."""
_SECONDS_PER_BLOCK = {False: 3.4e-3, True: 0.5e-3}
"""To start the kernels of a block for both passes, as it is written and compiled; measured likewise."""
_GATHERED = 2
"""Blocks of a sharded model that a device holds whole at once."""
USABLE = 0.94
"""Share of the memory that is planned with; the rest is for what libraries take and for fragments."""
_TOKENS_AT_ONCE = 2**15
"""With so many a GPU is busy; more at once win nothing."""
_STATE = {"adamw": 8.0, "adamw8bit": 2.1, "muon": 4.0}
"""Bytes of an optimizer's state, a parameter."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A way to work through a process's share of a batch.

    Attributes:
        level: of gradient checkpointing.
        samples: at once.
        parts: that the share is worked through in.
        needs: bytes of activations.
    """

    level: Checkpointing
    samples: int
    parts: int
    needs: float

    @property
    def said(self) -> str:
        """In words."""
        return f"{_WORDS[self.level]}, {self.samples} sample{'s' if self.samples > 1 else ''} at once"


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """How a GPU works through its share in some way.

    Attributes:
        choice: the way.
        compiled: whether blocks are compiled.
        operations: floating-point operations a sample.
        seconds: a sample, without the optimizer's step.
        memory: bytes at the peak.
    """

    choice: Choice
    compiled: bool
    operations: float
    seconds: float
    memory: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimates for one training run.

    Attributes:
        trained_parameters: Weights that the optimizer moves.
        memory: Bytes on each device.
        checkpoint: Bytes of one on the disk.
        encoding: Bytes on each device while pictures and captions are encoded, before that.
        operations: Floating-point operations of the whole run.
        chosen: How a device works.
        others: How it would work with other checkpointing, and compiled or not; for each as many samples at once as
            fit.
    """

    trained_parameters: int
    memory: dict[str, float]
    checkpoint: float
    encoding: float
    operations: float
    chosen: Predicted
    others: tuple[Predicted, ...]


@dataclass(frozen=True, kw_only=True)
class Device:
    """What is trained on.

    Attributes:
        speed: operations a second that the large products of a training step reach.
        memory: bytes that one has; None where that decides nothing.
    """

    speed: float
    memory: float | None = None


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What the blocks of a transformer keep of a sample.

    Attributes:
        blocks: how many there are.
        width: channels of a token.
        tokens: of a sample, text and image.
        value_bytes: of a value.
    """

    blocks: int
    width: int
    tokens: int
    value_bytes: int

    @classmethod
    def by(cls, config: TrainConfig, backbone: StockBackbone, image_tokens: int) -> Activations:
        """Those of a run.

        Args:
            config: of the run.
            backbone: that is trained; may be on the meta device.
            image_tokens: of a sample.
        """
        shape = backbone.transformer.config
        return cls(
            blocks=len(backbone.blocks), width=shape.num_attention_heads * shape.attention_head_dim,
            tokens=image_tokens + config.max_sequence_length, value_bytes=_value_bytes(config),
        )  # fmt: skip

    def of(self, level: Checkpointing, *, compiled: bool) -> float:
        """Bytes a sample."""
        kept = float(_KEPT[level] * self.blocks)
        if level == "full":
            kept += _ACTIVATIONS_PER_BLOCK  # of the block that is computed again
        if level == "off" and compiled:
            kept *= _COMPILED
        return kept * self.tokens * self.width * self.value_bytes


def _value_bytes(config: TrainConfig) -> int:
    return 2 if config.mixed_precision == "bf16" else 4


def is_compiled(config: TrainConfig, *, on_gpu: bool) -> bool:
    """Whether blocks of a run are to be compiled."""
    if config.offload != "none" or config.flavour == "cached" or config.parallel == "fsdp":
        return False
    return config.compile == "on" or (config.compile == "auto" and on_gpu and config.mixed_precision == "bf16")


def most_at_once(tokens: int) -> int:
    """Samples of so many tokens of which a GPU needs no more at once."""
    return max(1, _TOKENS_AT_ONCE // tokens)


def choices(
    config: TrainConfig, share: int, needs: Callable[[Checkpointing], float], most: int | None = None
) -> list[Choice]:
    """The ways to work through a share that a config allows, from what is quickest to what needs least memory.

    Args:
        config: of the run.
        share: samples of a step that a process works through.
        needs: bytes of activations a sample.
        most: samples at once, where the config leaves them open.
    """
    levels = LEVELS if config.gradient_checkpointing == "auto" else (config.gradient_checkpointing,)
    if config.gradient_accumulation == "auto":
        parts = [count for count in range(1, share + 1) if share % count == 0 and share // count <= (most or share)]
    else:
        parts = [config.parts]
    return [
        Choice(level=level, samples=share // count, parts=count, needs=needs(level) * (share // count))
        for level in levels
        for count in parts
    ]


def that_fits(found: list[Choice], room: float) -> Choice:
    """The first choice that needs no more than there is, else the one that needs least."""
    return next((one for one in found if one.needs <= room), min(found, key=lambda one: one.needs))


def state_bytes(config: TrainConfig, trained: int) -> float:
    """Bytes of gradients and of the optimizer's state."""
    return trained * (4.0 + _STATE[config.optimizer])


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What is counted of a model that is made ready for training.

    Attributes:
        trained: parameters of the transformer, or beside them.
        weights: bytes of what is not trained of the transformer.
        autoencoder: bytes of its weights.
        text: bytes of the text encoders' weights.
        operations: floating-point operations of both passes on a sample, by checkpointing.
        activations: what blocks keep of a sample.
    """

    trained: int
    weights: float
    autoencoder: float
    text: float
    operations: dict[Checkpointing, float]
    activations: Activations


def counted(config: TrainConfig, shape: Shape, frame: tuple[int, int]) -> Counted:
    """Counts a model.

    Args:
        config: of the run.
        shape: of its base; its transformer is widened and gets the adapter, so use it once.
        frame: (height, width) of a frame in pixels.
    """
    text_tokens = config.max_sequence_length
    each = _value_bytes(config)
    trained = _trained(config, shape)
    checkpoint_gradients(shape.backbone, "off")
    least = shape.training_operations(frame, _FRAMES, text_tokens)
    again = shape.prepared_operations(frame, _FRAMES, text_tokens)
    return Counted(
        trained=trained,
        weights=_weights(config, shape, each),
        autoencoder=float(shape.vae_parameters * each),
        text=float(shape.text_parameters * each),
        operations={"off": least, "selective": least + _SELECTED * again, "full": least + again},
        activations=Activations.by(config, shape.backbone, _FRAMES * shape.backbone.tokens_per(*frame)),
    )


def training_cost(config: TrainConfig, found: Counted, *, devices: int, device: Device) -> Cost:
    """Estimates a training run.

    Args:
        config: Of the run.
        found: What was counted of its model.
        devices: That share the batch.
        device: What each is.

    Raises:
        UserError: The batch does not divide among the devices.
    """
    config.require_divisible(devices)
    on_gpu = config.mixed_precision == "bf16"
    trained, kept = found.trained, found.activations
    averaged = trained * (8.0 if config.ema_decay else 4.0)
    state = averaged + state_bytes(config, trained)
    weights, shares = found.weights, devices if config.parallel == "fsdp" else 1
    if shares > 1:
        whole = weights + 4.0 * trained
        weights = weights / shares + _GATHERED * whole / kept.blocks
    memory = {
        "transformer": weights,
        "trained weights, gradients, optimizer": state / shares,
        "autoencoder, for samples": found.autoencoder,
        **({"text encoders": found.text} if config.text_cache == "live" else {}),
    }
    held = sum(memory.values())
    room = float("inf") if device.memory is None else USABLE * device.memory - held
    most = most_at_once(kept.tokens) if on_gpu else None

    def allowed(compiled: bool) -> list[Choice]:
        return choices(config, config.batch_size // devices, lambda level: kept.of(level, compiled=compiled), most)

    def predicted(ways: list[Choice], compiled: bool) -> Predicted:
        choice = that_fits(ways, room)
        operations = found.operations[choice.level]
        starts = _SECONDS_PER_BLOCK[compiled] * kept.blocks * operations / found.operations["off"] if on_gpu else 0.0
        return Predicted(
            choice=choice, compiled=compiled, operations=operations,
            seconds=operations / device.speed + starts / choice.samples, memory=held + choice.needs,
        )  # fmt: skip

    compiled = is_compiled(config, on_gpu=on_gpu)
    chosen = predicted(allowed(compiled), compiled)
    others = [
        predicted([one for one in allowed(way) if one.level == level], way)
        for way in ((True, False) if compiled else (False,) if on_gpu else ())
        for level in dict.fromkeys(one.level for one in allowed(way))
    ]
    return Cost(
        trained_parameters=trained,
        memory={**memory, "activations": chosen.choice.needs},
        checkpoint=averaged + trained * _STATE[config.optimizer],
        encoding=found.text + found.autoencoder,
        operations=chosen.operations * config.batch_size * config.steps,
        chosen=chosen,
        others=tuple(others),
    )


def _weights(config: TrainConfig, shape: Shape, each: int) -> float:
    if config.offload == "blocks":
        return streamed_bytes(shape.backbone, each)
    return weight_bytes(shape.backbone, config.base_precision, each)


def _trained(config: TrainConfig, shape: Shape) -> int:
    backbone = shape.backbone
    backbone.prepare(config.flavour)
    if config.full:
        adapter = attach_all(backbone.transformer)
    else:
        adapter = attach(
            backbone.transformer, backbone.layers, rank=config.rank, targets=config.lora_targets, seed=0,
            patch_embedding=config.flavour == "canvas",
        )  # fmt: skip
    return sum(parameter.numel() for parameter in adapter.parameters.values())
