"""Are the words of a caption in the picture: place, position, species, colour, pattern, accessory, mood, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dsd.world.benchmark import shows_mood
from dsd.world.captions import panel_captions
from dsd.world.individuals import (
    ACCESSORIES,
    CHARACTERS,
    COLORS,
    KINDS,
    MOODS,
    PATTERNS,
    PLACES,
    POSITIONS,
    Individuals,
    Scenes,
)


@dataclass(frozen=True)
class _Choice:
    """A kind of word.

    Attributes:
        field: of the individuals or scenes that it stands for.
        options: how many words there are.
        applies: to which rows.
        true: which word is right, for every row.
    """

    field: str
    options: range
    applies: Bool[Tensor, " n"]
    true: Int[Tensor, " n"]


def _choices(who: Individuals, scenes: Scenes) -> dict[str, _Choice]:
    everyone = torch.ones_like(who.is_object)
    characters = range(len(CHARACTERS))
    return {
        "place": _Choice("place", range(len(PLACES)), everyone, scenes.place),
        "position": _Choice("position", range(len(POSITIONS)), everyone, scenes.position),
        "species": _Choice("kind", characters, ~who.is_object, who.kind),
        "object": _Choice("kind", range(len(CHARACTERS), len(KINDS)), who.is_object, who.kind - len(CHARACTERS)),
        "colour": _Choice("hue", range(len(COLORS)), everyone, who.color),
        "pattern": _Choice("pattern", range(len(PATTERNS)), everyone, who.pattern),
        "accessory": _Choice("accessory", range(len(ACCESSORIES)), ~who.is_object, who.accessory),
        "mood": _Choice("mood", range(len(MOODS)), shows_mood(who), scenes.mood),
    }


def confirmed_words(
    pictures: Float[Tensor, "n d"],
    who: Individuals,
    scenes: Scenes,
    sentences: Callable[[list[str]], Float[Tensor, "k d"]],
) -> dict[str, list[float]]:
    """Whether each word of each picture's caption fits the picture better than all other words in its place.

    Args:
        pictures: normalised features of pictures drawn after `panel_captions` of the same rows.
        who: whom the captions name.
        scenes: that they name.
        sentences: normalised features of captions, by the same pair of encoders.

    Returns:
        For each kind of word that a caption has, 1 or 0 for each picture whose caption has it.
    """
    found = {}
    for name, choice in _choices(who, scenes).items():
        rows = choice.applies.nonzero().flatten()
        if not len(rows):
            continue
        some, at = who.take(rows), scenes.take(rows)
        texts = [panel_captions(*_said(some, at, choice.field, option)) for option in choice.options]
        said = torch.stack([sentences(column) for column in texts], 1)
        best = torch.einsum("nd,nkd->nk", pictures[rows], said).argmax(1)
        found[name] = (best == choice.true[rows]).float().tolist()
    return found


def _said(who: Individuals, scenes: Scenes, field: str, option: int) -> tuple[Individuals, Scenes]:
    """The same rows with one word of all captions replaced."""
    if field == "hue":
        return dataclasses.replace(who, hue=torch.full_like(who.hue, option / len(COLORS))), scenes
    if field in {f.name for f in dataclasses.fields(Individuals)}:
        return dataclasses.replace(who, **{field: torch.full_like(who.kind, option)}), scenes
    return who, dataclasses.replace(scenes, **{field: torch.full_like(scenes.place, option)})
