"""Phase 3: trains a two-frame student from pairs. To resume, run again; a finished run is left alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator, InitProcessGroupKwargs

from dsd import runs
from dsd.attention import right_attention
from dsd.backbones.adapter import (
    METADATA_FILE,
    AdapterMetadata,
    describe_anew,
    is_full,
    is_of_another_base,
    load_adapter,
    load_metadata,
    require_whole,
    save_adapter,
    save_full,
)
from dsd.backbones.registry import backbone_class, family_of, load_backbone
from dsd.backbones.stock import StockBackbone
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
from dsd.errors import UserError
from dsd.files import make_folder, require_replaceable, sweep
from dsd.locks import held
from dsd.log import console
from dsd.models import revision_or_name
from dsd.train import adapter as adapters
from dsd.train import checkpoint, eight_bits, environment, fitting, loop, offload, quantised
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import TrainConfig
from dsd.train.meter import Meter
from dsd.train.parallel import gathered, is_to_be_sharded, one_voice, require_alike, shard
from dsd.train.stopping import Termination, of_first, together
from dsd.train.task import TwoFrameTask
from dsd.train.trackers import Trackers
from dsd.train.validate import Encoders

__all__ = ["TrainConfig", "train"]

ADAPTER = "adapter"
"""The folder of the finished adapter in a run's."""
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
            offload.require_alone(config, accelerator.num_processes)
            quantised.require_usable(config, accelerator.device)
            eight_bits.require_usable(config)
            config.require_divisible(accelerator.num_processes)
            source = _source_of(data, config)
            is_done = is_finished(config, source, out)
        if of_first(is_done):
            if accelerator.is_main_process:
                _tidy(config, out)
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
    of = _deciding(config, source)
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
            of=of,
            meter=Meter(config.batch_size, task.operations(), accelerator.device),
            track=lambda done: Trackers(config.trackers, out, config, done),
            proves=task.loss_now,
        )
    with together():
        if accelerator.is_main_process or task.is_sharded:
            export(task, out / ADAPTER, _digest(of))


def _deciding(config: TrainConfig, source: Source) -> dict[str, str]:
    """What decides the weights that a run ends with, but for how many steps it takes."""
    of = {"base": revision_or_name(config.base), "data": source.fingerprint} | runs.deciding(config, "train")
    if backbone_class(family_of(config.base)).shift_knows_steps:
        of["train.sampling.steps"] = repr(config.sampling.steps)
    return of


def _digest(of: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(of), sort_keys=True).encode()).hexdigest()[:16]


def _tidy(config: TrainConfig, out: Path) -> None:
    """Leaves a finished run without what a kill at its very end left, and with an adapter that says how it is drawn."""
    metadata = load_metadata(out / ADAPTER)
    if metadata.sampling != config.sampling:
        describe_anew(out / ADAPTER, replace(metadata, sampling=config.sampling))
    with suppress(UserError), held(out):  # it may be read only, or somebody's at work
        sweep(out, folders=True)


def is_finished(config: TrainConfig, data: Source, out: Path) -> bool:
    """Whether a folder holds the adapter that a run of this config on these data ends with.

    Raises:
        UserError: it holds a run of another config, of other data or of more steps, or an adapter of other weights, or
            one of fewer steps without a checkpoint.
    """
    checkpoints = out / checkpoint.FOLDER
    claimed = runs.begun(out, config, sources={"data": data.fingerprint}) and (out / runs.SOURCES).exists()
    metadata = _metadata_of(config, data, out / ADAPTER, checkpoints)
    if metadata is not None and is_of_another_base(metadata, config.base):
        raise UserError(
            f'"{out}" holds an adapter of other weights (revision {metadata.base_revision}) than those that '
            f'"{config.base}" now has; give another folder to train anew'
        )
    done = checkpoint.newest(checkpoints)
    if metadata is not None and not claimed and not done:
        raise UserError(
            f'"{out}" holds an adapter, but {runs.CONFIG} or {runs.SOURCES}, which say what it was trained on, is '
            "missing; bring it back, or give another folder"
        )
    require_no_more_steps(out, done if metadata is None else max(done, metadata.steps), config)
    if metadata is not None and metadata.steps < config.steps and not done:
        raise UserError(
            f'"{out}" holds an adapter of {metadata.steps} steps, but no checkpoint to go on from to {config.steps}; '
            f'bring "{checkpoints}" back, delete "{out / ADAPTER}" to begin at the first step, or give another folder'
        )
    return metadata is not None and claimed and metadata.steps == config.steps


def _metadata_of(config: TrainConfig, data: Source, finished: Path, checkpoints: Path) -> AdapterMetadata | None:
    """Of a finished adapter; None where there is none, or a wrong one that a checkpoint makes anew.

    Raises:
        UserError: it is damaged or of another run, and there is no checkpoint, or what is there is no adapter.
    """
    if not finished.exists():
        return None
    require_replaceable(finished, METADATA_FILE)
    try:
        metadata = load_metadata(finished) if is_full(finished) else load_adapter(finished)[1]
        if is_full(finished):
            require_whole(finished, metadata)
        return _require_of_run(config, data, metadata, finished)
    except UserError as error:
        if not checkpoint.newest(checkpoints):
            raise
        console.print(f"warning: {error}: it is written anew from its checkpoint")
        return None


def _require_of_run(config: TrainConfig, data: Source, metadata: AdapterMetadata, finished: Path) -> AdapterMetadata:
    """What an adapter says of itself, if this run ends with it.

    Raises:
        UserError: it is of another one.
    """
    if is_of_another_base(metadata, config.base):
        return metadata  # which is told in words of its own
    wanted = {
        "run": _digest(_deciding(config, data)), "rank": 0 if config.full else config.rank,
        "base_precision": config.base_precision, "max_sequence_length": config.max_sequence_length,
    }  # fmt: skip
    for name, value in wanted.items():
        if (found := getattr(metadata, name)) not in (value, "" if name == "run" else value):
            raise UserError(f'"{finished / METADATA_FILE}" is of another run, with {name} {found}, not {value}')
    return metadata


def require_no_more_steps(out: Path, done: int, config: TrainConfig) -> None:
    """Makes sure that a run has not gone further than it is now told to.

    Raises:
        UserError: it has done more steps.
    """
    if done > config.steps:
        raise UserError(
            f'"{out}" holds a run that has done {done} steps, but train.steps is {config.steps}; give {done} or more, '
            "or another folder"
        )


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
