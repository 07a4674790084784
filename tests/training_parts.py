"""A handful of pairs and a run of a second, for the tests of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tiny
import torch
from accelerate import Accelerator
from PIL import Image

from dsd.backbones.registry import load_backbone
from dsd.data.latents import CacheKey, LatentCache, build_cache
from dsd.data.records import Example, Model, Pair, TwoFrames
from dsd.data.store import DatasetWriter
from dsd.recipes.registry import recipe
from dsd.sampling import Sampling
from dsd.train import trainer
from dsd.train.config import TrainConfig
from dsd.train.task import TwoFrameTask

FRAME = 32
KEY = CacheKey(base="tiny", data="simple", frame_size=None, max_sequence_length=tiny.TEXT_TOKENS)
_WORDS = ("red", "green", "blue", "yellow")


@dataclass(frozen=True, kw_only=True)
class SimplePair(TwoFrames):
    """A training pair without provenance."""

    id: str
    grid: str
    reference: Image.Image
    target: Image.Image
    target_caption: str


def simple_pairs(count: int = 12, per_grid: int = 2) -> list[SimplePair]:
    """Pairs of neighbouring panels of small grids; panels take part in several pairs."""

    def pair(number: int) -> SimplePair:
        grid, place = divmod(number, per_grid)
        first, second = (tiny.picture((FRAME, FRAME), seed=10 * grid + place + k) for k in (0, 1))
        return SimplePair(
            id=f"pair-{number:03d}", grid=f"grid-{grid:03d}", reference=first, target=second,
            target_caption=f"a {_WORDS[number % 4]} cat at the beach",
        )  # fmt: skip

    return [pair(number) for number in range(count)]


def dataset_in(folder: Path, simple: Sequence[SimplePair] | None = None) -> list[Pair]:
    """The simple pairs as a finished dataset of two shards."""
    pairs = [
        Pair(
            **vars(pair), reference_panel="", target_panel="", reference_caption="", subject="", first_details="",
            second_details="", comparison="", judge=Model(name="test", revision="0"),
        )
        for pair in simple or simple_pairs()
    ]  # fmt: skip
    writer = DatasetWriter(folder)
    writer.finish([writer.write_shard("pairs", n, pairs[n * 6 : n * 6 + 6]) for n in (0, 1)], {}, {})
    return pairs


def small_config(**changes: object) -> TrainConfig:
    """Four steps of four pairs."""
    settings = replace(
        recipe("tiny").train, base=tiny.schnell(), rank=4, steps=4, batch_size=4, warmup=1, held_out=1, sample_every=4,
        max_sequence_length=tiny.TEXT_TOKENS, sampling=Sampling(steps=2), checkpoint_every=2, ema_decay=0.5,
        identity=None, agreement=None,
    )  # fmt: skip
    return replace(settings, **changes)  # pyright: ignore[reportArgumentType]


def cache_in(folder: Path, pairs: Sequence[Example] | None = None, base: str | None = None) -> LatentCache:
    """The latents of some pairs."""
    backbone = load_backbone(base or tiny.schnell(), transformer=False)
    build_cache(simple_pairs() if pairs is None else pairs, backbone, folder, KEY)
    return LatentCache(folder)


def task_in(folder: Path, config: TrainConfig) -> TwoFrameTask:
    """A task as training builds it."""
    backbone = load_backbone(config.base, text=False)
    adapter = trainer.attach(config, backbone)
    cache = cache_in(folder / "latents", base=config.base)
    return TwoFrameTask(config, backbone, adapter, cache, Accelerator(), folder)


def shake(task: TwoFrameTask, size: float = 0.05) -> None:
    """Moves all trained weights, as training would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in task.adapter.parameters.values():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
