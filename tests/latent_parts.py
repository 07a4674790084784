"""Pairs whose latents tell which pair they are of, and ways to look into a cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tiny
from diffusers import StableDiffusion3Pipeline
from PIL import Image
from torch import Tensor
from training_parts import SimplePair

from dsd.backbones.sd3.backbone import SD3Backbone
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import CacheKey
from dsd.images import fit, to_tensor

SIZES = ((32, 32), (24, 40), (40, 24))


def told_apart(count: int = 18, sizes: Sequence[tuple[int, int]] = SIZES) -> list[SimplePair]:
    """Pairs of pictures and captions of their own, of sizes in turn, six pairs a grid."""
    return [
        SimplePair(
            id=f"pair-{number:03d}", grid=f"grid-{number // 6:03d}",
            reference=tiny.picture(sizes[number % len(sizes)], seed=2 * number),
            target=tiny.picture(sizes[number % len(sizes)], seed=2 * number + 1),
            target_caption=f"cat {number} at the beach",
        )
        for number in range(count)
    ]  # fmt: skip


def key(**changes: object) -> CacheKey:
    """Of a tiny cache."""
    settings: dict[str, object] = {
        "base": "tiny", "data": "told apart", "frame_size": None, "max_sequence_length": tiny.TEXT_TOKENS,
    }  # fmt: skip
    return CacheKey(**(settings | changes))  # pyright: ignore[reportArgumentType]


def latents_of(backbone: StockBackbone, pictures: Sequence[Image.Image], size: tuple[int, int]) -> Tensor:
    """What training should see of pictures that are cropped to a size."""
    return backbone.encode(to_tensor([fit(picture, size)[0] for picture in pictures]))


def shards_in(folder: Path) -> list[Path]:
    """The shards of a cache."""
    return sorted(folder.glob("shard-*.safetensors"))


def without_t5() -> SD3Backbone:
    """A tiny SD3 that draws without T5, as the stock pipeline may: its rows are zeros for every caption."""
    return SD3Backbone.from_pipeline(
        StableDiffusion3Pipeline.from_pretrained(tiny.sd3(), text_encoder_3=None, tokenizer_3=None)
    )
