"""What a two-frame training run is told: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsd.config import how_it_runs, require_seeds
from dsd.errors import UserError
from dsd.limits import LARGEST, MOST, MOST_TEXT_TOKENS, require_frame, require_within
from dsd.sampling import Flavour, Sampling

_MOST_AT_ONCE = 2**16
"""Pairs of a batch, whose noise each process draws at once; and a LoRA's rank, for no layer is wider."""
LoraTargets = Literal["attention", "all-linear"]
BasePrecision = Literal["full", "8bit", "4bit", "fp8"]
Offload = Literal["none", "blocks"]
Checkpointing = Literal["off", "selective", "full"]
Auto = Literal["auto"]
Compile = Literal["auto", "on", "off"]
OptimizerName = Literal["adamw", "adamw8bit", "muon"]
TrackerName = Literal["tensorboard", "wandb"]
Parallel = Literal["auto", "ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of phase 3. What depends on the model has no default: a recipe says it.

    Those of `dsd.config.how_it_runs` may change when a run is started again, and ``steps`` may grow.

    Attributes:
        base: text-to-image model that becomes the student: ``embedded:NAME``, a folder or a hub id.
        full: train all weights; no adapter.
        flavour: how the student is shown the reference: ``canvas``, the paper, or ``cached``, whose keys and values are
            computed once a picture and not in every step; see `dsd.sampling.Flavour`.
        rank: of the LoRA. Layers no wider than this are trained whole and exported as an exact LoRA.
        base_precision: of the frozen linear layers in the transformer's blocks, for cards that they do not fit:
            ``8bit``; ``4bit`` (NF4, modulation in 8 bits); ``fp8``, multiplied so, on GPUs of compute capability 8.9 or
            higher. What is trained stays as it is, and the adapter serves the base in any precision.
        offload: ``blocks`` keeps what is frozen of the transformer's blocks in the memory of the CPU, from where each
            comes to the device as it computes; for a whole base that does not fit, at the cost of that way.
        lora_targets: ``attention`` (the published model), ``all-linear``, or ends of module names.
        steps: optimizer steps in all; the learning rate's course depends on it.
        batch_size: pairs an optimizer step, over all processes (the paper: 160).
        gradient_accumulation: parts that each process works through its share of the batch in; ``auto`` as few as a
            GPU's free memory allows, and one on a CPU.
        gradient_checkpointing: what blocks compute again in the backward pass, to save memory: ``selective`` all that
            is quick and the wide middle of feed-forwards, ``full`` everything; see `dsd.train.checkpointing`. ``auto``
            is the least of them that fits into a GPU's free memory, and ``off`` on a CPU.
        compile: whether blocks are compiled; ``auto`` on a GPU in mixed precision. What is compiled is compared with
            what is written before it is trained with.
        optimizer: ``adamw`` (the paper), ``adamw8bit``, whose state takes a quarter of the memory (torchao's; needs
            the extra ``speed``), or ``muon`` for the matrices and AdamW for the rest.
        learning_rate: of AdamW at its highest.
        muon_learning_rate: of Muon at its highest; unused by ``adamw``.
        warmup: steps of linear warm-up.
        decay_from: share of the run after which the rate falls linearly; 1 keeps it constant.
        weight_decay: decoupled; on the matrices that carry the training.
        reference_weight: loss weight of the reference frame, where the target frame has 1; a cached one has no loss.
        text_dropout: share of samples that see the empty text.
        image_dropout: share of samples that see no reference (an all-zero condition).
        ema_decay: of the averaged weights, which are the result; 0 for none.
        sigma_density: of the noise levels, before the resolution shift.
        guidance: embedded guidance value, for guidance-distilled bases; others ignore it.
        max_sequence_length: text tokens a caption is padded to; generation must use the same.
        frame_size: (height, width) in pixels that pictures are resized to; None takes those of ``buckets``, or the size
            of each example's first target. What is too long is cropped around the centre, as in generation.
        buckets: sizes (height, width) of which each example takes the one whose proportions are closest to its first
            target's. Where examples have several sizes, each batch is of one of them.
        text_cache: what is kept of the encoded captions. ``whole``: all of their rows, which is exact, costs most disk
            and needs no text encoders while training; the default, for a caption is read many times and a disk is
            cheaper than encoding it anew each time. ``live``: nothing; captions are encoded while training, exact too,
            for the text encoders' memory and up to 5 % of a step. ``trimmed``: rows up to a caption's
            last real token, and the empty text's padding in the place of its own; refused where that is not exact:
            where nothing masks the padding, its rows depend on the caption, and the transformer reads them. With the
            embedded teacher they differ by 111 % of their size, which moves its velocity by 11 % at 32 tokens, where
            leaving out the whole text moves it by 44 % (``benchmarks/text_padding.py``).
        held_out: grids kept back whole. Small data has fewer held back, with a warning; of 0 the sheets show what is
            trained on.
        sample_every: steps between sample sheets and held-out figures.
        sampled: grids held back of each of which the first pair is drawn, for the figures of ``identity`` and
            ``agreement``, and, of eight at most, in the sample sheets.
        identity: vision model that tells individuals apart (``embedded:NAME``, a folder or a hub id), such as
            ``facebook/dinov2-base``; what it says of the drawings is told beside the losses, which hardly move.
        agreement: model of pictures and sentences, such as ``openai/clip-vit-base-patch32``, that says likewise whether
            they follow their captions.
        sampling: how samples are drawn, and later the finished student, whose adapter says it.
        checkpoint_every: steps between checkpoints.
        trackers: that show figures and sample sheets while it runs: ``tensorboard`` (``tensorboard --logdir OUT``), and
            ``wandb`` where it is installed.
        parallel: what several processes hold of the model: ``ddp`` each all of it, ``fsdp`` each its shards, gathered a
            block at a time; ``auto`` is ``ddp``. See `dsd.train.parallel`.
        mixed_precision: ``bf16`` keeps frozen weights in bfloat16 and computes under autocast.
        seed: of everything random.
    """

    base: str
    full: bool = False
    flavour: Flavour = "canvas"
    rank: int
    base_precision: BasePrecision = "full"
    offload: Offload = how_it_runs("none")
    lora_targets: LoraTargets | tuple[str, ...]
    steps: int = how_it_runs()
    batch_size: int
    gradient_accumulation: int | Auto = how_it_runs(1)
    gradient_checkpointing: Checkpointing | Auto = how_it_runs("off")
    compile: Compile = how_it_runs("auto")
    optimizer: OptimizerName
    learning_rate: float
    muon_learning_rate: float = 0.02
    warmup: int
    decay_from: float
    weight_decay: float = 0.0
    reference_weight: float = 1.0
    text_dropout: float = 0.1
    image_dropout: float = 0.1
    ema_decay: float
    sigma_density: Literal["uniform", "logit-normal"] = "logit-normal"
    guidance: float = 3.5
    max_sequence_length: int
    frame_size: tuple[int, int] | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    text_cache: Literal["whole", "trimmed", "live"] = "whole"
    held_out: int
    sample_every: int = how_it_runs()
    sampled: int = how_it_runs(8)
    identity: str | None = how_it_runs(None)
    agreement: str | None = how_it_runs(None)
    sampling: Sampling = how_it_runs()
    checkpoint_every: int = how_it_runs()
    trackers: tuple[TrackerName, ...] = how_it_runs(("tensorboard",))
    parallel: Parallel = how_it_runs("auto")
    mixed_precision: Literal["no", "bf16"] = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("text_dropout", "image_dropout", "decay_from", "ema_decay"):
            self._within(name, 0, 1)
        for name in ("steps", "warmup", "sample_every", "sampled", "checkpoint_every"):
            self._within(name, 1, MOST)
        for name in ("rank", "batch_size"):
            self._within(name, 1, _MOST_AT_ONCE)
        self._within("max_sequence_length", 1, MOST_TEXT_TOKENS)
        for name in ("learning_rate", "muon_learning_rate"):
            self._within(name, 0, LARGEST, above=True)
        self._within("held_out", 0, MOST)
        for name in ("reference_weight", "weight_decay", "guidance"):
            self._within(name, 0, LARGEST)
        if not self.full and not self.lora_targets:
            raise UserError(
                "train.lora_targets is empty, but a LoRA needs layers; give attention, all-linear or ends of names"
            )
        if self.flavour == "cached" and self.reference_weight != 1:
            raise UserError(
                f"train.reference_weight is {self.reference_weight:g}, but a cached reference is not denoised and has "
                "no loss; leave it out, or set train.flavour to canvas"
            )
        for size in self.buckets:
            require_frame("one of train.buckets", size)
        if self.frame_size is not None and self.buckets:
            raise UserError(
                f"train.frame_size is {self.frame_size} and train.buckets are {self.buckets}, of which only one can "
                "say what pictures are resized to; leave one out"
            )
        if self.frame_size is not None:
            require_frame("train.frame_size", self.frame_size)
        require_seeds("train.seed", self.seed)
        if self.ema_decay == 1:
            raise UserError("train.ema_decay is 1, of which averages stay as they began; give less, or 0 for none")
        if self.parallel == "fsdp":
            self._require_shardable()
        if self.compile == "on":
            self._require_compilable()
        if self.full and self.base_precision != "full":
            raise UserError(
                f"train.full trains all weights, but train.base_precision {self.base_precision} keeps them frozen in "
                "fewer bits; leave one of them out"
            )
        if self.base_precision == "fp8" and self.mixed_precision != "bf16":
            raise UserError(
                "train.base_precision fp8 takes a base in bfloat16, but train.mixed_precision is "
                f"{self.mixed_precision}; give bf16"
            )
        if self.offload != "none" and (self.full or self.base_precision != "full"):
            given = "train.full" if self.full else f"train.base_precision {self.base_precision}"
            raise UserError(
                f"train.offload {self.offload} streams a frozen base of full precision, which {given} has none of; "
                "leave one of them out"
            )
        require_within("train.gradient_accumulation", self.parts, 1)
        if self.batch_size % self.parts:
            raise UserError(
                f"batch_size {self.batch_size} does not divide into gradient_accumulation = "
                f"{self.gradient_accumulation} equal parts; choose a divisor of the batch"
            )

    @property
    def parts(self) -> int:
        """Of a process's share of a batch, as told; one where that is left open."""
        return 1 if self.gradient_accumulation == "auto" else self.gradient_accumulation

    def require_divisible(self, processes: int, parts: int | None = None) -> None:
        """Makes sure that a batch divides among processes, and what each works through among its parts.

        Args:
            processes: that train together.
            parts: of each; those of the config when left out, one where it leaves them open.

        Raises:
            UserError: it does not.
        """
        parts = self.parts if parts is None else parts
        if self.batch_size % (processes * parts):
            raise UserError(
                f"batch_size {self.batch_size} does not divide among {processes} processes x {parts} "
                f"gradient_accumulation; choose a multiple of {processes * parts}"
            )

    def _within(self, name: str, least: float, most: float, *, above: bool = False) -> None:
        require_within(f"train.{name}", getattr(self, name), least, most, above=above)

    def _require_shardable(self) -> None:
        refused = {
            self.optimizer == "muon": "train.optimizer is 'muon', which needs matrices whole; give adamw",
            self.optimizer == "adamw8bit": "train.optimizer is 'adamw8bit', which needs tensors whole; give adamw",
            self.compile == "on": "train.compile is 'on', which sharded blocks do not take; give auto",
            self.flavour == "cached": "train.flavour is 'cached', which is not sharded; give train.parallel ddp",
            self.base_precision != "full": f"train.base_precision is {self.base_precision!r}, of which nothing is "
            "sharded; give train.parallel ddp",
        }
        if True in refused:
            raise UserError(f"train.parallel is 'fsdp' and {refused[True]}")

    def _require_compilable(self) -> None:
        refused = {
            self.offload != "none": f"train.offload is {self.offload!r}, whose blocks come and go",
            self.flavour == "cached": "train.flavour is 'cached', whose blocks keep what they computed",
        }
        if True in refused:
            raise UserError(f"train.compile is 'on' and {refused[True]}; give train.compile auto")
