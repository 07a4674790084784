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
    backbone: StockBackbone, objective: Objective, samples: Samples, sampling: Sampling, seed: int
) -> Tensor:
    """Latents (b, t, c, h, w) of the frames to draw, from each sample's references and caption as a user would.

    Args:
        backbone: prepared for the film's flavour.
        objective: what is learned.
        samples: with references and captions.
        sampling: as the finished student is to be drawn with.
        seed: of the noise; the same in every sheet, so that sheets of several steps compare.
    """
    film = objective.film
    condition = film.condition(film.references(samples.frames), objective.empty_frame)
    kept = backbone.reference(condition) if film.is_cached else None
    shown = [
        Shown(condition=one, reference=None if kept is None else kept.take([n])) for n, one in enumerate(condition)
    ]
    velocity = velocity_of(backbone, shown, [sampling.guidance] * len(shown))
    noise = film.noise(samples.frames[:, 0], torch.Generator().manual_seed(seed), len(samples.frames))
    latents = draw(velocity, noise, samples.text, objective.empty_text, sampling, objective.shift)
    return film.drawn(latents)


@torch.no_grad()
def sample_sheet(
    backbone: StockBackbone, objective: Objective, samples: Samples, captions: list[str], sampling: Sampling, seed: int
) -> Image.Image:
    """A sheet with a row for each sample: references, drawings, targets; see `draw_targets`."""
    return sheet_of([SheetPart(objective, samples, captions)], backbone, sampling, seed)


@dataclass(frozen=True)
class SheetPart:
    """Samples of one size, what is learned from them, and their captions."""

    objective: Objective
    samples: Samples
    captions: list[str]


@torch.no_grad()
def sheet_of(parts: Sequence[SheetPart], backbone: StockBackbone, sampling: Sampling, seed: int) -> Image.Image:
    """As `sample_sheet`, of samples of several sizes."""
    labels, rows, captions = [], [], []
    for part in parts:
        columns = _columns(part, backbone, sampling, seed)
        labels = list(columns)
        rows.extend(list(row) for row in zip(*columns.values(), strict=True))
        captions.extend(part.captions)
    return contact_sheet(rows, labels=labels, row_labels=captions)


def _columns(part: SheetPart, backbone: StockBackbone, sampling: Sampling, seed: int) -> dict[str, list[Image.Image]]:
    film, samples = part.objective.film, part.samples
    drawn = draw_targets(backbone, part.objective, samples, sampling, seed)
    shown = {"reference": film.references(samples.frames), "student": drawn, "target": film.targets(samples.frames)}
    return {
        name if frames.shape[1] == 1 else f"{name} {number + 1}": to_pil(backbone.decode(frame))
        for name, frames in shown.items()
        for number, frame in enumerate(frames.unbind(1))
    }
