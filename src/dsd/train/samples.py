"""What a run shows of itself: of held-out examples references, the student's drawings and targets in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dsd.backbones.stock import StockBackbone
from dsd.data.latents import Samples
from dsd.generate.draw import draw
from dsd.generate.shown import Shown, velocity_of
from dsd.images import contact_sheet, to_pil
from dsd.sampling import Sampling
from dsd.train.step import Objective


@torch.no_grad()
def draw_targets(
    backbone: StockBackbone, objective: Objective, samples: Samples, sampling: Sampling, noise: Tensor
) -> Tensor:
    """Latents (b, t, c, h, w) of the frames to draw, from each sample's references and caption as a user would.

    Args:
        backbone: prepared for the film's flavour.
        objective: what is learned.
        samples: with references and captions.
        sampling: as the finished student is to be drawn with.
        noise: to start from, of each sample; the same in every sheet, so that sheets of several steps compare.
    """
    film = objective.film
    condition = film.condition(film.references(samples.frames), objective.empty_frame)
    kept = backbone.reference(condition) if film.is_cached else None
    shown = [
        Shown(condition=one, reference=None if kept is None else kept.take([n])) for n, one in enumerate(condition)
    ]
    velocity = velocity_of(backbone, shown, [sampling.guidance] * len(shown))
    latents = draw(velocity, noise, samples.text, objective.empty_text, sampling, objective.shift)
    return film.drawn(latents)


@dataclass(frozen=True)
class SheetPart:
    """Samples of one size, what is learned from them, and their captions."""

    objective: Objective
    samples: Samples
    captions: list[str]


@dataclass(frozen=True)
class Row:
    """A held-out example and what the student made of it.

    Attributes:
        references: pictures that were given.
        drawn: by the student, one for each target.
        targets: what they would be at best.
        caption: that was followed.
    """

    references: list[Image.Image]
    drawn: list[Image.Image]
    targets: list[Image.Image]
    caption: str


@torch.no_grad()
def rows_of(
    parts: Sequence[SheetPart], backbone: StockBackbone, sampling: Sampling, seed: int, at_once: int
) -> list[Row]:
    """Draws each example; see `draw_targets`.

    Args:
        parts: what to draw.
        backbone: prepared for the film's flavour.
        sampling: as the finished student is to be drawn with.
        seed: of the noise.
        at_once: examples that memory suffices for.
    """
    rows = []
    for part in parts:
        film = part.objective.film
        every = film.noise(part.samples.frames[:, 0], torch.Generator().manual_seed(seed), len(part.samples))
        for first in range(0, len(part.samples), at_once):
            some = slice(first, first + at_once)
            samples = Samples(part.samples.frames[some], part.samples.text.take(some))
            drawn = draw_targets(backbone, part.objective, samples, sampling, every[some])
            frames = (film.references(samples.frames), drawn, film.targets(samples.frames))
            shown = zip(*(pictures_of(backbone, of) for of in frames), part.captions[some], strict=True)
            rows.extend(Row(given, made, wanted, caption) for given, made, wanted, caption in shown)
    return rows


def sheet_of(rows: Sequence[Row]) -> Image.Image:
    """A sheet with a row for each example: references, drawings, targets."""
    first = rows[0]
    shown = {"reference": first.references, "student": first.drawn, "target": first.targets}
    labels = [
        name if len(pictures) == 1 else f"{name} {number + 1}"
        for name, pictures in shown.items()
        for number in range(len(pictures))
    ]
    pictures = [[*row.references, *row.drawn, *row.targets] for row in rows]
    return contact_sheet(pictures, labels=labels, row_labels=[row.caption for row in rows])


def pictures_of(backbone: StockBackbone, frames: Tensor) -> list[list[Image.Image]]:
    """The pictures of each sample of latents (b, f, c, h, w)."""
    by_frame = [to_pil(backbone.decode(frame)) for frame in frames.unbind(1)]
    return [list(pictures) for pictures in zip(*by_frame, strict=True)]
