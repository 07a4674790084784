"""Phase 3: trains a two-frame student from pairs. To resume, run again; a finished run is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from dsd import runs
from dsd.attention import right_attention
from dsd.backbones.adapter import AdapterMetadata, save_adapter, save_full
from dsd.backbones.registry import backbone_class, family_of, load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.config import require_text
from dsd.data.latents import (
    SHARD_SAMPLES,
    CacheKey,
    LatentCache,
    Share,
    build_share,
    discard,
    fingerprint,
    finish,
    is_complete,
)
from dsd.data.pairs import ids_of
from dsd.data.records import Example
from dsd.data.sources import Source, open_source
from dsd.files import make_folder, sweep
from dsd.locks import held
from dsd.models import revision_or_name
from dsd.train import adapter as adapters
from dsd.train import checkpoint, eight_bits, environment, fitting, loop, offload, quantised
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import TrainConfig
from dsd.train.finished import ADAPTER, deciding, is_finished, note_written, run_of, tidy
from dsd.train.meter import Meter
from dsd.train.parallel import gathered, is_to_be_sharded, one_voice, require_alike, shard
from dsd.train.stopping import Termination, of_first, together
from dsd.train.task import TwoFrameTask
from dsd.train.trackers import Trackers
from dsd.train.validate import Encoders

__all__ = ["TrainConfig", "train"]

LONGEST_WAIT = timedelta(hours=6)
"""Of a process for others, which encode larger pictures, check a larger share or draw the samples."""


@loop.flushed_denormals()
def train(
    config: TrainConfig, data: Path | str | Source | Sequence[Example], out: Path, *, latents: Path | None = None
) -> Path:
    """Trains a student and writes its adapter.

    Args:
        config: settings; the same for every start of a run but for how it runs, and ``steps``, which may grow.
        data: a folder or another thing that `open_source` finds, what it gave, or examples in a fixed order.
        out: the run's folder: ``config.json``, ``environment.json``, ``metrics.jsonl``, ``latents/``, ``checkpoints/``,
            ``samples/``, ``tensorboard/`` and at the end ``adapter/``.
        latents: folder of the latents in place of ``out/latents``, for runs that share them.

    Returns:
        The adapter's folder, ``out/adapter``.

    Raises:
        UserError: the folder holds a run of another config or other data, or the data does not fit.
    """
    accelerator = joined()
    finished = out / ADAPTER
    with offload.alone(config), Termination(at_once=True), one_voice(), ExitStack() as stack:
        with together(at_once=True):
            require_text("out", str(out))
            offload.require_alone(config, accelerator.num_processes)
            quantised.require_usable(config, accelerator.device)
            eight_bits.require_usable(config)
            config.require_divisible(accelerator.num_processes)
            source = _source_of(data, config)
            is_done = is_finished(config, source, out)
        if of_first(is_done):
            if accelerator.is_main_process:
                tidy(config, out)
            return finished
        with together():
            if accelerator.is_main_process:
                stack.enter_context(held(out))
        _train(config, source, out, latents or out / "latents", accelerator)
    return finished


def joined() -> Accelerator:
    """Device and processes of a run, which know of each other once all have called it."""
    return Accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)])


def _train(config: TrainConfig, source: Source, out: Path, latents: Path, accelerator: Accelerator) -> None:
    backbone_class(family_of(config.base)).require(config.flavour)
    sources = {"base": revision_or_name(config.base), "data": source.fingerprint}
    of = deciding(config, source)
    with together():
        require_alike(of | {f"train.{name}": repr(value) for name, value in vars(config).items()})
        if accelerator.is_main_process:
            sweep(out, folders=True)
            if (samples := out / loop.SAMPLES).exists():
                make_folder(samples)  # what is in the way is told before the work
            checkpoint.require_usable(out / checkpoint.FOLDER, of)
            if not runs.begun(out, config):
                discard(out / "latents")  # of a start that failed on what it found
    with together(at_once=True):
        encoders = Encoders.of(config, accelerator.device) if accelerator.is_main_process else None
    cache = latent_cache(config, source, latents, accelerator.device, accelerator)
    text, shards = config.text_cache == "live", is_to_be_sharded(config)
    with together(at_once=True):
        # No process has room for what all hold together, nor for what is kept in fewer bits or elsewhere.
        device = torch.device("cpu") if shards else quantised.loaded_on(config, accelerator.device)
        backbone = load_backbone(config.base, device=device, dtype=_frozen_dtype(config), text=text)
        adapter = attach(config, backbone, device if shards else accelerator.device)
    with together():
        if shards:
            adapter = shard(backbone, adapter, accelerator)
        task = TwoFrameTask(config, backbone, adapter, cache, accelerator, out, encoders)
        if accelerator.is_main_process:
            runs.claim(out, config, sources)
            environment.record(out / "environment.json")
    fitted = fitting.fit(task, config.batch_size // accelerator.num_processes)
    with right_attention(accelerator.device, fitted.attention):
        loop.run(
            task,
            folder=out,
            steps=config.steps,
            checkpoint_every=config.checkpoint_every,
            evaluate_every=config.sample_every,
            description="training the student",
            writes=accelerator.is_main_process,
            shares=task.is_sharded,
            of=of | {"pairs": fingerprint(cache.ids)},
            meter=Meter(config.batch_size, task.operations(), accelerator.device),
            track=lambda done: Trackers(config.trackers, out, config, done),
            proves=task.proof,
        )
    with together():
        if accelerator.is_main_process or task.is_sharded:
            export(task, out / ADAPTER, run_of(of))
        if accelerator.is_main_process:
            note_written(out)


def attach(config: TrainConfig, backbone: StockBackbone, device: torch.device | None = None) -> adapters.Adapter:
    """Prepares the backbone for the config's flavour, makes trainable what the config says, and keeps the rest so.

    Args:
        config: of the run.
        backbone: where `dsd.train.quantised.loaded_on` says.
        device: where it trains; the backbone's when left out.
    """
    backbone.prepare(config.flavour)
    checkpoint_gradients(backbone, config.gradient_checkpointing)
    if config.full:
        return adapters.attach_all(backbone.transformer)
    adapter = adapters.attach(
        backbone.transformer, backbone.layers, rank=config.rank, targets=config.lora_targets, seed=config.seed,
        patch_embedding=config.flavour == "canvas",
    )  # fmt: skip
    quantised.quantise(backbone, config.base_precision, device or backbone.device)
    if config.offload == "blocks":
        offload.stream_blocks(backbone, adapter.parameters.values(), device or backbone.device)
    return adapter


def export(task: TwoFrameTask, folder: Path, run: str = "") -> None:
    """Writes the averaged weights as an adapter folder; a full fine-tune as a whole transformer.

    All processes that hold shards of the weights have to call it; the first one writes.

    Args:
        task: that has been trained.
        folder: of the adapter.
        run: see `AdapterMetadata`.
    """
    config, backbone = task.config, task.backbone
    _, _, height, width = task.objective.empty_frame.shape
    metadata = AdapterMetadata(
        family=backbone.family,
        base=config.base,
        base_revision=revision_or_name(config.base),
        rank=0 if config.full else config.rank,
        base_precision=config.base_precision,
        film=task.objective.film,
        max_sequence_length=config.max_sequence_length,
        frame_size=(height * backbone.pixels_per_latent, width * backbone.pixels_per_latent),
        guidance=config.guidance if backbone.takes_guidance else None,
        steps=config.steps,
        sampling=config.sampling,
        run=run,
    )
    with task.ema.in_place():
        if config.full:
            transformer = gathered(backbone)
            if task.accelerator.is_main_process:
                save_full(folder, transformer, metadata)
        else:
            updates = task.adapter.updates(_frozen_dtype(config))
            if task.accelerator.is_main_process:
                save_adapter(folder, updates, metadata)


def latent_cache(
    config: TrainConfig,
    data: Path | str | Source | Sequence[Example],
    folder: Path,
    device: torch.device,
    accelerator: Accelerator | None = None,
) -> LatentCache:
    """The latents and encoded captions of a run's pairs, made unless they are there.

    Args:
        config: names the base model and the sizes.
        data: see `train`.
        folder: of the cache.
        device: to encode on.
        accelerator: of a parallel run, all of whose processes call this and each of which makes and checks its share.
    """
    share = Share() if accelerator is None else Share(accelerator.process_index, accelerator.num_processes)
    source = _source_of(data, config)
    key = CacheKey(
        base=revision_or_name(config.base),
        data=source.fingerprint,
        frame_size=config.frame_size,
        max_sequence_length=config.max_sequence_length,
        buckets=config.buckets,
        text=config.text_cache,
    )
    with together(at_once=True):  # all have looked before any of them changes something
        complete = is_complete(folder, key)
    if not of_first(complete):
        _build(config, source, folder, key, device, share)
    with together(at_once=True):
        return LatentCache(folder, share)


def _build(
    config: TrainConfig, source: Source, folder: Path, key: CacheKey, device: torch.device, share: Share
) -> None:
    """Makes a cache, of which each process makes its share."""
    with ExitStack() as stack:
        with together(at_once=True):
            if share.index == 0:
                stack.enter_context(held(folder, "latents"))
                source.verify()
                sweep(folder)
        with together(at_once=True):
            backbone = load_backbone(config.base, device=device, dtype=_frozen_dtype(config), transformer=False)
            examples = source.examples()
            if source.some is not None:
                examples = source.some(lambda number: share.has(number // SHARD_SAMPLES))
            shards = build_share(examples, backbone, folder, key, total=source.total, share=share)
        with together(at_once=True):
            if share.index == 0:
                finish(folder, key, backbone, shards)


def _source_of(data: Path | str | Source | Sequence[Example], config: TrainConfig) -> Source:
    if isinstance(data, (Path, str)):
        return open_source(data)
    if isinstance(data, Source):
        return data
    return Source(examples=lambda: iter(data), fingerprint=fingerprint(ids_of(data)), total=len(data))


def _frozen_dtype(config: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
