"""One film that is to be drawn, with all that its drawing depends on; what the command line and the server ask for."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image

from dsd.config import require_seeds
from dsd.generate.asked import Asked
from dsd.generate.two_frame import FilmDrawing, TwoFramePipeline
from dsd.generate.wanted import Wanted
from dsd.sampling import Sampling

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, eq=False)
class Order(Wanted):
    """One film.

    Attributes:
        references: Who is to be drawn, RGB, as many as the model was trained with; none draws after words alone.
        seed: Of its noise, from 0 to 2^63 - 1.
    """

    references: tuple[Image.Image, ...]
    seed: int

    def alike(self) -> Hashable:
        """What orders share that begin together."""
        scales = (self.text_scale, self.image_scale, self.guidance)
        return (self.frames, self.height, self.width, self.fit, self.steps, *scales, len(self.references))


@dataclass(frozen=True, kw_only=True)
class DrawnFilm:
    """A film that was drawn.

    Attributes:
        pictures: Its frames.
        sampling: How.
        notes: What was done to its references to make them fit, in words.
    """

    pictures: list[Image.Image]
    sampling: Sampling
    notes: tuple[str, ...]


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Items of one key together, in the order of their first."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def check(pipeline: TwoFramePipeline, order: Order) -> None:
    """Finds what is wrong with an order before any work is done.

    Raises:
        UserError: It cannot be drawn.
    """
    require_seeds("seed", order.seed)
    pipeline.check(_asked([order]))


def begin(pipeline: TwoFramePipeline, orders: Sequence[Order]) -> list[FilmDrawing]:
    """Encodes orders that are alike.

    Raises:
        UserError: One cannot be drawn.
    """
    for order in orders:
        require_seeds("seed", order.seed)
    return pipeline.begin(_asked(orders, [torch.Generator().manual_seed(order.seed) for order in orders]))


def finish(pipeline: TwoFramePipeline, drawings: Sequence[FilmDrawing]) -> list[DrawnFilm]:
    """Decodes films of one shape."""
    films = zip(drawings, pipeline.finish(drawings), strict=True)
    return [
        DrawnFilm(pictures=shown if isinstance(shown, list) else [shown], sampling=one.sampling, notes=one.notes)
        for one, shown in films
    ]


def draw(pipeline: TwoFramePipeline, orders: Sequence[Order]) -> list[DrawnFilm]:
    """Draws orders together; one does not depend on the others.

    Raises:
        UserError: One cannot be drawn.
    """
    drawn: dict[int, DrawnFilm] = {}
    places = grouped(range(len(orders)), lambda place: orders[place].alike())
    groups = [(group, begin(pipeline, [orders[place] for place in group])) for group in places]
    while unfinished := [one for _, drawings in groups for one in drawings if not one.is_finished]:
        pipeline.advance(unfinished)
    for group, drawings in groups:
        drawn |= zip(group, finish(pipeline, drawings), strict=True)
    return [drawn[place] for place in range(len(orders))]


def _asked(orders: Sequence[Order], generators: Sequence[torch.Generator] | None = None) -> Asked:
    first = orders[0]
    return Asked(
        prompt=[order.prompt for order in orders],
        image=[list(order.references) for order in orders],
        negative_prompt=[order.negative_prompt for order in orders],
        num_frames=first.frames,
        height=first.height,
        width=first.width,
        fit=first.fit,
        text_scale=first.text_scale,
        image_scale=first.image_scale,
        num_inference_steps=first.steps,
        guidance_scale=first.guidance,
        generator=generators,
    )
