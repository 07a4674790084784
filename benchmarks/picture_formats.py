"""What lossy pictures cost a dataset: bytes a pair, and the identity that an encoder no longer sees.

    python benchmarks/picture_formats.py --dataset runs/demo/dataset

An own similarity is that of a panel with itself as it was written (cosine, 1 where nothing is lost); a pair loses what
its two panels are less alike than before.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
import tyro
from PIL import Image
from torch import Tensor

from dsd.data.rows import Pictures, to_parquet
from dsd.data.store import DatasetReader
from dsd.encoders import ImageEncoder
from dsd.images import load_image

FORMATS = (
    Pictures("png"),
    *(Pictures("webp", quality) for quality in (95, 90, 80)),
    *(Pictures("jpeg", quality) for quality in (98, 95, 90, 80)),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        dataset: folder of a curation whose pictures are PNG, or its address.
        pairs: the first so many are measured.
        encoder: of pictures, by name.
    """

    dataset: str
    pairs: int = 300
    encoder: str = "embedded:tiny-dino"


def main(settings: Settings) -> int:
    """Prints a row of a Markdown table a format; returns the exit status."""
    pairs = list(islice(DatasetReader(settings.dataset).pairs(), settings.pairs))
    encoder = ImageEncoder(settings.encoder)
    references, targets = [pair.reference for pair in pairs], [pair.target for pair in pairs]
    before = _embedded(encoder, references), _embedded(encoder, targets)
    print("| format | bytes a pair | ms a pair | own similarity, least | a pair loses |\n|---|---|---|---|---|")
    for pictures in FORMATS:
        began = time.perf_counter()
        size = len(to_parquet("pairs", pairs, pictures))
        seconds = time.perf_counter() - began
        after = tuple(_embedded(encoder, _written(images, pictures)) for images in (references, targets))
        own = torch.cat([(old * new).sum(-1) for old, new in zip(before, after, strict=True)])
        lost = (before[0] * before[1]).sum(-1) - (after[0] * after[1]).sum(-1)
        half = 1.96 * lost.std().item() / len(pairs) ** 0.5
        name = pictures.format if pictures.format == "png" else f"{pictures.format} {pictures.quality}"
        print(
            f"| {name} | {size / len(pairs):,.0f} | {1000 * seconds / len(pairs):.1f} "
            f"| {own.mean():.4f}, {own.min():.3f} | {lost.mean():.4f} ± {half:.4f} |",
            flush=True,
        )
    return 0


def _written(images: Sequence[Image.Image], pictures: Pictures) -> list[Image.Image]:
    return [load_image(pictures.bytes_of(image)) for image in images]


def _embedded(encoder: ImageEncoder, images: Sequence[Image.Image]) -> Tensor:
    return torch.nn.functional.normalize(encoder.pooled(images).float(), dim=-1)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
