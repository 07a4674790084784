"""What the cache of latents costs under each choice of `TrainConfig.text_cache`: disk, and operations to encode.

Pictures and captions are counted in one's own data where there are any. Else every pair is taken to have pictures and a
caption of its own, which is the most there can be.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from statistics import fmean

import torch
from torch.utils.flop_counter import FlopCounterMode

from dsd.backbones.cost import Shape
from dsd.data.latents import SHARD_SAMPLES, CacheKey, Size, TextCache, size_of
from dsd.data.latents.encode import chunks
from dsd.data.sources import Source
from dsd.errors import UserError
from dsd.train.config import TrainConfig

TEXT_CACHES: tuple[TextCache, ...] = ("whole", "trimmed", "live")
_LOOKED_AT = 2048
_ASSUMED_TOKENS = 64
_TOKENS_A_WORD = 4 / 3
_LATENT_BYTES = 4
_WORDS = 220.0
"""Bytes of a sample's ids, places and share of the records, apart from its caption."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a pair adds to a cache, on average.

    Attributes:
        pictures: different ones of each size (height, width) within a shard.
        captions: different ones within a shard.
        characters: of its caption.
        tokens: that its caption fills.
        said: where the figures are from, in words.
    """

    pictures: dict[Size, float]
    captions: float
    characters: float
    tokens: float
    said: str


@dataclass(frozen=True, kw_only=True)
class CacheCost:
    """A choice of what is kept of captions.

    Attributes:
        disk: bytes of the whole cache.
        operations: floating-point operations to encode pictures and captions, before and while training.
        while_training: those of them that are done while training.
        memory: bytes that the text encoders take on each device while training.
    """

    disk: float
    operations: float
    while_training: float
    memory: float


def assumed(config: TrainConfig, frame: Size) -> Contents:
    """The most that a pair can add, and a caption of a usual length."""
    tokens = min(_ASSUMED_TOKENS, config.max_sequence_length)
    return Contents(
        pictures={frame: 2.0},
        captions=1.0,
        characters=tokens / _TOKENS_A_WORD * 6,
        tokens=tokens,
        said=f"every pair has two pictures and a caption of its own, which fills {tokens} text tokens",
    )


def counted(
    source: Source, config: TrainConfig, frame: Size | None, tokens_of: Callable[[Sequence[str]], list[int]] | None
) -> Contents:
    """Counts the first examples of some data.

    Args:
        source: the data.
        config: of the run; says sizes.
        frame: in place of the config's ``frame_size``.
        tokens_of: counts how many of the text tokens captions fill; None where the tokenizer is not at hand.

    Raises:
        UserError: there are none.
    """
    key = CacheKey(
        base="", data="", frame_size=frame or config.frame_size, max_sequence_length=1, buckets=config.buckets
    )
    pictures: dict[Size, int] = {}
    captions, count, samples = 0, 0, []
    for shard in chunks(islice(source.examples(), _LOOKED_AT), SHARD_SAMPLES):
        seen = set()
        for example in shard:
            size = size_of(example, key)
            seen |= {(size, sha256(p.tobytes()).digest(), p.size) for p in (*example.references, *example.targets)}
        for size, *_ in seen:
            pictures[size] = pictures.get(size, 0) + 1
        different = list(dict.fromkeys(example.caption for example in shard))
        captions, count, samples = captions + len(different), count + len(shard), samples + different
    if not count:
        raise UserError("the data holds no example to count; curate more captions, or give other data")
    counts = tokens_of(samples) if tokens_of else [round(len(s.split()) * _TOKENS_A_WORD) + 1 for s in samples]
    tokens = fmean(min(number, config.max_sequence_length) for number in counts)
    how = "by the base's tokenizer" if tokens_of else "taking four tokens for three words, for want of the tokenizer"
    return Contents(
        pictures={size: number / count for size, number in pictures.items()},
        captions=captions / count,
        characters=fmean(len(sample) for sample in samples),
        tokens=tokens,
        said=f"the first {count:,} examples have {sum(pictures.values()) / count:.2f} different pictures and "
        f"{captions / count:.2f} different captions each, which fill {tokens:.0f} text tokens {how}",
    )


def cache_costs(config: TrainConfig, shape: Shape, contents: Contents, pairs: int) -> dict[TextCache, CacheCost]:
    """What each choice costs.

    Args:
        config: of the run.
        shape: of its base.
        contents: of a pair.
        pairs: how many.
    """
    number = 2 if config.mixed_precision == "bf16" else 4
    further, most = shape.further_text_tokens, config.max_sequence_length
    pixels = sum(size[0] * size[1] * count for size, count in contents.pictures.items())
    pictures = pairs * (pixels * shape.latent_values * _LATENT_BYTES + _WORDS + contents.characters)
    encoding = pairs * sum(count * _picture_operations(shape, size) for size, count in contents.pictures.items())
    caption = shape.text_operations(most)
    once, each = pairs * contents.captions * caption, config.steps * config.batch_size * caption

    def kept(rows: float) -> float:
        return pairs * contents.captions * number * (rows * shape.text_width + shape.pooled_width)

    return {
        "whole": CacheCost(
            disk=pictures + kept(further + most), operations=encoding + once, while_training=0.0, memory=0.0
        ),
        "trimmed": CacheCost(
            disk=pictures + kept(further + contents.tokens), operations=encoding + once, while_training=0.0, memory=0.0
        ),
        "live": CacheCost(
            disk=pictures, operations=encoding + each, while_training=each, memory=float(shape.text_parameters * number)
        ),
    }


def _picture_operations(shape: Shape, size: Size) -> float:
    picture = torch.empty(1, 3, *size, device="meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        shape.vae.encoder(picture)  # pyright: ignore[reportCallIssue]
    return float(counter.get_total_flops())
