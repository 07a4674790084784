"""Sheets to panels, and a description of every panel: in words to tell individuals by, and as a caption to train on.

With the compact templates a question is one user message of the picture and `describe`; see `templates/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from PIL import Image

from dsd.chat.protocol import ChatFailure, ChatModel, Reply
from dsd.chat.templates import Templates
from dsd.curate.schemas import PanelDescription
from dsd.curate.seeds import derive_seed
from dsd.data.records import Description, Grid, Panel
from dsd.frames import Grid as Layout
from dsd.frames import MalformedSheet


@dataclass(frozen=True)
class RefusedSheet:
    """A sheet that does not look like a grid of panels, and why."""

    reason: str


@dataclass(frozen=True)
class Described:
    """A panel, and why its description is empty if it is."""

    panel: Panel
    failure: ChatFailure | None = None


def cut(grid: Grid, panel_size: int, layout: Layout) -> list[Image.Image] | RefusedSheet:
    """Cuts a sheet into its panels, row by row, each (panel_size, panel_size) pixels."""
    try:
        return layout.split(grid.image, (panel_size, panel_size))
    except MalformedSheet as error:
        return RefusedSheet(error.reason)


def describe(
    panels: Sequence[tuple[Grid, int, Image.Image]], judge: ChatModel, templates: Templates, seed: int
) -> list[Described]:
    """Has each panel described once.

    Args:
        panels: each picture with its sheet and its number there.
        judge: a vision-language model.
        templates: of the question.
        seed: of the unit.

    Returns:
        Every panel; one that got no description has empty words and says why.
    """
    template = templates["describe"]
    replies = judge.reply(
        [
            template.request({"image": image}, PanelDescription, seed=derive_seed(seed, "describe", grid.id, number))
            for grid, number, image in panels
        ]
    )
    return [_described(*panel, reply) for panel, reply in zip(panels, replies, strict=True)]


def _described(grid: Grid, number: int, image: Image.Image, reply: Reply) -> Described:
    if isinstance(reply, ChatFailure):
        return Described(Panel(grid=grid.id, number=number, image=image, description=Description()), reply)
    said = cast(PanelDescription, reply)
    words = Description(subject=said.subject, details=said.details, caption=said.caption)
    return Described(Panel(grid=grid.id, number=number, image=image, description=words))
