"""What a model is told of references: each picture read, fitted and encoded once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.backbones.stock import StockBackbone, apart, side_by_side
from dsd.errors import UserError
from dsd.frames import Film
from dsd.generate.asked import listed
from dsd.generate.shown import Shown
from dsd.images import Fit, fit, load_image, to_tensor

References = list[list[Image.Image]]
"""Pictures of each film; none where there are no references."""


def of_films(image: Any, count: int) -> list[list[Any]]:
    """What was given, sorted by film.

    Args:
        image: See `dsd.generate.two_frame.TwoFramePipeline.__call__`.
        count: Of references that the model was trained with.

    Raises:
        UserError: Another number for a film.
    """
    if image is None or count == 0:
        return [[]]
    given = listed(image)
    nested = [isinstance(one, (list, tuple)) for one in given]
    if any(nested) and not all(nested):
        raise UserError("image mixes pictures and lists of pictures; give pictures alone, or a list for each prompt")
    if given and all(nested):
        films = [list(of_film) for of_film in given]
    elif count == 1:
        films = [[one] for one in given]
    else:
        films = [given]
    for of_film in films:
        if len(of_film) not in (0, count):
            raise UserError(
                f"{len(of_film)} reference pictures were given for one result, but this model was trained with "
                f"{count}; give {count}"
            )
    return films


def read(films: Sequence[Sequence[Any]]) -> References:
    """Reads pictures, one that is given several times once.

    Raises:
        UserError: One cannot be read; see `dsd.images.load_image`.
    """
    pictures: dict[int, Image.Image] = {}
    for one in (one for of_film in films for one in of_film):
        if id(one) not in pictures:
            pictures[id(one)] = load_image(one)
    return [[pictures[id(one)] for one in of_film] for of_film in films]


class Black:
    """The latents of black frames, by size, for who changes nothing of the autoencoder meanwhile.

    Args:
        most: Sizes that are kept.
    """

    def __init__(self, most: int = 16) -> None:
        self._most = most
        self._kept: OrderedDict[tuple[int, int], Tensor] = OrderedDict()

    def of(self, backbone: StockBackbone, size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """Those of a size (height, width) in pixels; encoded where they are not kept."""
        if size not in self._kept:
            self._kept[size] = backbone.encode(black(size))
        self._kept.move_to_end(size)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return self._kept[size]


def black(size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
    """A black frame of so many pixels."""
    return torch.full((1, 3, *size), -1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen(Shown):
    """What a model is told of a film's references.

    Attributes:
        notes: What was done to references to make them fit, in words.
    """

    notes: tuple[str, ...]


def seen(
    backbone: StockBackbone,
    film: Film,
    references: References,
    size: tuple[int, int],
    how: Fit = "crop",
    encodes: Literal["frames", "canvas"] = "frames",
    kept: Black | None = None,
    **more: Any,
) -> list[Seen]:
    """Encodes the references of films, equal ones once.

    Args:
        backbone: Whose autoencoder encodes.
        film: Its frames.
        references: Of each film.
        size: (height, width) of a frame in pixels.
        how: What is done to pictures of other proportions.
        encodes: What is one picture to the autoencoder: a frame, as `dsd` trains, or the whole canvas.
        kept: Of drawings before.
        **more: For the pass of the references of a cached film; see `StockBackbone.reference`.
    """
    kept = kept or Black()
    unique = {id(picture): picture for of_film in references for picture in of_film}
    fitted = {key: fit(picture, size, how) for key, picture in unique.items()}
    encode = partial(_canvas if encodes == "canvas" else _frames, backbone, film, kept, size)
    found: dict[tuple[int, ...], Seen] = {}
    for of_film in references:
        key = tuple(map(id, of_film))
        if key not in found:
            pictures = [fitted[one][0] for one in key]
            notes = tuple(fitted[one][1] for one in key if fitted[one][1])
            condition = encode(pictures)
            passed = backbone.reference(condition[None], **more) if film.is_cached and pictures else None
            found[key] = Seen(condition=condition, reference=passed, notes=notes)
    return [found[tuple(map(id, of_film))] for of_film in references]


def _frames(
    backbone: StockBackbone, film: Film, kept: Black, size: tuple[int, int], pictures: Sequence[Image.Image]
) -> Tensor:
    """Encodes frames one by one."""
    empty = kept.of(backbone, size)
    if not pictures:
        return torch.zeros_like(empty).repeat(sum(film.given) if film.is_cached else film.frames, 1, 1, 1)
    return film.condition(backbone.encode(to_tensor(pictures))[None], empty)[0]


def _canvas(
    backbone: StockBackbone, film: Film, kept: Black, size: tuple[int, int], pictures: Sequence[Image.Image]
) -> Tensor:
    """Encodes the canvas as one picture, as the published model was trained."""
    if not pictures:
        return torch.zeros_like(kept.of(backbone, size)).repeat(film.frames, 1, 1, 1)
    canvas = film.condition(to_tensor(pictures)[None], black(size))
    return apart(backbone.encode(side_by_side(canvas)), film.frames)[0]
