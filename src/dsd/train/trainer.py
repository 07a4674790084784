"""Phase 3: trains a two-frame student from pairs. To resume, run again; a finished run is left alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator

from dsd import runs
from dsd.backbones.adapter import AdapterMetadata, is_of_another_base, load_metadata, save_adapter, save_full
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import CacheKey, LatentCache, build_cache, discard, fingerprint, is_complete
from dsd.data.pairs import ids_of
from dsd.data.records import Example
from dsd.data.sources import Source, open_source
from dsd.errors import UserError
from dsd.locks import held
from dsd.models import revision_or_name
from dsd.train import adapter as adapters
from dsd.train import checkpoint, environment, loop
from dsd.train.checkpointing import checkpoint_gradients
from dsd.train.config import TrainConfig
from dsd.train.task import TwoFrameTask

__all__ = ["TrainConfig", "train"]


@loop.flushed_denormals()
def train(
    config: TrainConfig, data: Path | str | Source | Sequence[Example], out: Path, *, latents: Path | None = None
) -> Path:
    """Trains a student and writes its adapter.

    Args:
        config: settings; the same for every start of a run but for how it runs, and ``steps``, which may grow.
        data: a folder or another thing that `open_source` finds, what it gave, or examples in a fixed order.
        out: the run's folder: ``config.json``, ``environment.json``, ``metrics.jsonl``, ``latents/``, ``checkpoints/``,
            ``samples/`` and at the end ``adapter/``.
        latents: folder of the latents in place of ``out/latents``, for runs that share them.

    Returns:
        The adapter's folder, ``out/adapter``.

    Raises:
        UserError: the folder holds a run of another config or other data, or the data does not fit.
    """
    accelerator = Accelerator()
    finished, source = out / "adapter", _source_of(data, config)
    if is_finished(config, source, out):
        return finished
    with held(out) if accelerator.is_main_process else nullcontext():
        _train(config, source, out, latents or out / "latents", accelerator)
    return finished


def _train(config: TrainConfig, source: Source, out: Path, latents: Path, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        if not runs.begun(out, config):
            discard(out / "latents")  # of a start that failed on what it found
        latent_cache(config, source, latents, accelerator.device)
    accelerator.wait_for_everyone()
    cache = LatentCache(latents)
    backbone = load_backbone(config.base, device=accelerator.device, dtype=_frozen_dtype(config), text=False)
    task = TwoFrameTask(config, backbone, attach(config, backbone), cache, accelerator, out)
    if accelerator.is_main_process:
        runs.claim(out, config, {"base": revision_or_name(config.base), "data": source.fingerprint})
        environment.record(out / "environment.json")
    loop.run(
        task,
        folder=out,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.sample_every,
        description="training the student",
        writes=accelerator.is_main_process,
    )
    if accelerator.is_main_process:
        export(task, out / "adapter")
    accelerator.wait_for_everyone()


def is_finished(config: TrainConfig, data: Source, out: Path) -> bool:
    """Whether a folder holds the adapter that a run of this config on these data ends with.

    Raises:
        UserError: it holds a run of another config, of other data or of more steps, or an adapter of other weights.
    """
    runs.begun(out, config, sources={"data": data.fingerprint})
    finished = out / "adapter"
    metadata = load_metadata(finished) if finished.exists() else None
    if metadata is not None and is_of_another_base(metadata, config.base):
        raise UserError(
            f'"{out}" holds an adapter of other weights (revision {metadata.base_revision}) than those that '
            f'"{config.base}" now has; give another folder to train anew'
        )
    done = checkpoint.newest(out / "checkpoints")
    done = done if metadata is None else max(done, metadata.steps)
    require_no_more_steps(out, done, config)
    return metadata is not None and metadata.steps in (0, config.steps)


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


def attach(config: TrainConfig, backbone: StockBackbone) -> adapters.Adapter:
    """Widens the backbone's patch embedding and makes trainable what the config says."""
    backbone.widen()
    checkpoint_gradients(backbone, config.gradient_checkpointing)
    if config.full:
        return adapters.attach_all(backbone.transformer)
    return adapters.attach(
        backbone.transformer, backbone.layers, rank=config.rank, targets=config.lora_targets, seed=config.seed
    )


def export(task: TwoFrameTask, folder: Path) -> None:
    """Writes the averaged weights as an adapter folder; a full fine-tune as a whole transformer."""
    config, backbone = task.config, task.backbone
    _, _, height, width = task.objective.empty_frame.shape
    metadata = AdapterMetadata(
        family=backbone.family,
        base=config.base,
        base_revision=revision_or_name(config.base),
        rank=0 if config.full else config.rank,
        film=task.objective.film,
        max_sequence_length=config.max_sequence_length,
        frame_size=(height * backbone.pixels_per_latent, width * backbone.pixels_per_latent),
        guidance=config.guidance if backbone.takes_guidance else None,
        steps=config.steps,
        sampling=config.sampling,
    )
    with task.ema.in_place():
        if config.full:
            save_full(folder, backbone.transformer, metadata)
        else:
            save_adapter(folder, task.adapter.updates(_frozen_dtype(config)), metadata)


def latent_cache(
    config: TrainConfig, data: Path | str | Source | Sequence[Example], folder: Path, device: torch.device
) -> LatentCache:
    """The latents and encoded captions of a run's pairs, made unless they are there.

    Args:
        config: names the base model and the sizes.
        data: see `train`.
        folder: of the cache.
        device: to encode on.
    """
    data = _source_of(data, config)
    key = CacheKey(
        base=revision_or_name(config.base),
        data=data.fingerprint,
        frame_size=config.frame_size,
        max_sequence_length=config.max_sequence_length,
    )
    if not is_complete(folder, key):
        with held(folder, "latents"):
            backbone = load_backbone(config.base, device=device, dtype=_frozen_dtype(config), transformer=False)
            build_cache(data.examples(), backbone, folder, key, total=data.total)
    return LatentCache(folder)


def _source_of(data: Path | str | Source | Sequence[Example], config: TrainConfig) -> Source:
    if isinstance(data, (Path, str)):
        return open_source(data, one_size=config.frame_size is None)
    if isinstance(data, Source):
        return data
    return Source(examples=lambda: iter(data), fingerprint=fingerprint(ids_of(data)), total=len(data))


def _frozen_dtype(config: TrainConfig) -> torch.dtype:
    return torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
