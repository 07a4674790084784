"""Perfect pairs to train a student on, as no pipeline can make them: the world draws the same individual twice."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from PIL import Image
from torch import Tensor

from dsd.data.records import TwoFrames
from dsd.images import to_pil
from dsd_world.captions import panel_captions
from dsd_world.draw import draw_panels
from dsd_world.individuals import sample_individuals, sample_scenes

_DRAWN_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class DrawnPair(TwoFrames):
    """A `dsd.data.records.Example` as the world itself draws it: certainly the same individual."""

    id: str
    grid: str
    reference: Image.Image
    target: Image.Image
    target_caption: str


def drawn_pairs(count: int, first: int = 0) -> list[DrawnPair]:
    """Pairs of training individuals in two scenes, each in both orders; the same at each call.

    Args:
        count: of pairs, an even number.
        first: number of the first individual.
    """
    blocks = torch.arange(first, first + count // 2).split(_DRAWN_AT_ONCE)
    return [pair for block in blocks for pair in _pairs(block)]


def _pairs(index: Int[Tensor, " n"]) -> list[DrawnPair]:
    who, scenes = sample_individuals("training", index), [sample_scenes("training", 2 * index + k) for k in (0, 1)]
    panels = [to_pil(draw_panels(who, at)) for at in scenes]
    captions = [panel_captions(who, at) for at in scenes]
    return [
        DrawnPair(
            id=f"{number}-{order}",
            grid=str(number),
            reference=panels[1 - order][row],
            target=panels[order][row],
            target_caption=captions[order][row],
        )
        for row, number in enumerate(index.tolist())
        for order in (0, 1)
    ]
