"""Comics and albums: sheets of one individual in several scenes, some of them drifting as real teachers' do."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dsd_world.captions import scene_phrases, sheet_caption, subject_phrases
from dsd_world.draw import PANEL_SIZE, draw_panels, panel_numbers
from dsd_world.individuals import Individuals, Scenes, Split, drifted, sample_individuals, sample_scenes, uniforms

DRIFT_SHARE = 0.3
_DRIFT_DECISION_STREAM = 11


@dataclass(frozen=True)
class Sheets:
    """A batch of sheets, all of one layout.

    Attributes:
        images: ``(n, 3, rows * size, columns * size)`` in [-1, 1].
        captions: a text a sheet.
        individuals: of each panel, ``n * panels`` rows, sheet by sheet.
        scenes: of each panel, likewise.
        drifted: ``(n, panels)``, whether a panel shows a drifted individual.
    """

    images: Float[Tensor, "n 3 height width"]
    captions: list[str]
    individuals: Individuals
    scenes: Scenes
    drifted: Bool[Tensor, "n panels"]


def join_panels(panels: Float[Tensor, "np c h w"], layout: tuple[int, int]) -> Float[Tensor, "n c H W"]:
    """Sheets of consecutive panels, row by row."""
    rows, columns = layout
    return rearrange(panels, "(n r k) c h w -> n c (r h) (k w)", r=rows, k=columns)


def drift_decisions(split: Split, index: Int[Tensor, "n"], panels: int, share: float) -> Bool[Tensor, "n panels"]:
    """Which panels drift: in a share of the sheets, a random set of panels, never the first."""
    u = uniforms({"training": 1, "validation": 2, "evaluation": 3}[split], _DRIFT_DECISION_STREAM, index, panels + 1)
    chosen = u[:, 1:] < 0.5
    chosen[:, 0] = False
    chosen[:, -1] |= ~chosen.any(1)
    return chosen & (u[:, :1] < share)


def describe_sheets(
    split: Split, index: Int[Tensor, "n"], layout: tuple[int, int] = (2, 2), drift: float = DRIFT_SHARE
) -> tuple[Individuals, Scenes, Bool[Tensor, "n panels"], list[str]]:
    """What stands on the sheets number ``index`` and their captions, before anything is drawn.

    Args:
        split: whose individuals.
        index: numbers of the individuals, one a sheet.
        layout: rows and columns.
        drift: share of sheets in which the identity drifts in one or more panels.
    """
    panels = layout[0] * layout[1]
    numbers = panel_numbers(index, panels).flatten()
    same = sample_individuals(split, index).repeat_interleave(panels)
    scenes = sample_scenes(split, numbers)
    decisions = drift_decisions(split, index, panels, drift)
    other = drifted(same, split, numbers)
    flat = decisions.flatten()
    shown = Individuals(
        **{f.name: torch.where(flat, getattr(other, f.name), getattr(same, f.name)) for f in dataclasses.fields(same)}
    )
    phrases = scene_phrases(same, scenes)
    subjects = subject_phrases(same.take(torch.arange(0, len(same), panels)))
    captions = [
        sheet_caption(subject, phrases[i * panels : (i + 1) * panels], layout) for i, subject in enumerate(subjects)
    ]
    return shown, scenes, decisions, captions


def draw_sheets(
    split: Split,
    index: Int[Tensor, "n"],
    layout: tuple[int, int] = (2, 2),
    drift: float = DRIFT_SHARE,
    size: int = PANEL_SIZE,
) -> Sheets:
    """Draws the sheets of `describe_sheets`; ``size`` is a panel's height and width in pixels."""
    individuals, scenes, decisions, captions = describe_sheets(split, index, layout, drift)
    images = join_panels(draw_panels(individuals, scenes, size), layout)
    return Sheets(images, captions, individuals, scenes, decisions)
