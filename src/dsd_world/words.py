"""Are the words of a caption in the picture: place, position, species, colour, pattern, accessory, mood, one by one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from dsd_world.benchmark import shows_mood
from dsd_world.captions import panel_captions
from dsd_world.individuals import (
    ACCESSORIES,
    CHARACTERS,
    COLORS,
    KINDS,
    MOODS,
    OBJECTS,
    PATTERNS,
    PLACES,
    POSITIONS,
    Individuals,
    Scenes,
)


@dataclass(frozen=True)
class Word:
    """A kind of word.

    Attributes:
        field: of the individuals or scenes that it stands for.
        options: the field's values, one a word; of the hue, its index into `COLORS`.
    """

    field: str
    options: range


WORDS = {
    "place": Word("place", range(len(PLACES))),
    "position": Word("position", range(len(POSITIONS))),
    "species": Word("kind", range(len(CHARACTERS))),
    "object": Word("kind", range(len(CHARACTERS), len(KINDS))),
    "colour": Word("hue", range(len(COLORS))),
    "pattern": Word("pattern", range(len(PATTERNS))),
    "accessory": Word("accessory", range(len(ACCESSORIES))),
    "mood": Word("mood", range(len(MOODS))),
}
"""All kinds of words that captions have."""
_SPELLED = {
    "place": {*PLACES},
    "position": {*POSITIONS},
    "species": {*CHARACTERS},
    "object": {*OBJECTS},
    "colour": {*COLORS},
    "pattern": {*PATTERNS},
    "accessory": {*ACCESSORIES[1:]},
    "mood": {*MOODS},
}
NO_WORD = -100
"""In place of a word's number where a caption has no such word; `torch.nn.functional.cross_entropy` ignores it."""


def true_words(who: Individuals, scenes: Scenes) -> dict[str, Int[Tensor, " n"]]:
    """For each of `WORDS` which of its options each caption says, numbered from 0, or `NO_WORD`."""
    everyone = torch.ones_like(who.is_object)
    said = {"species": ~who.is_object, "object": who.is_object, "accessory": ~who.is_object, "mood": shows_mood(who)}
    true = {}
    for name, word in WORDS.items():
        value = getattr(scenes if hasattr(scenes, word.field) else who, word.field)
        value = who.color if word.field == "hue" else value
        true[name] = torch.where(said.get(name, everyone), value - word.options.start, NO_WORD)
    return true


def word_losses(
    logits: Float[Tensor, "n k"], names: Sequence[str], who: Individuals, scenes: Scenes
) -> dict[str, Float[Tensor, ""]]:
    """Mean cross-entropy of the words of some kinds over the captions that have one; 0 where none has.

    Args:
        logits: of all options of the first kind, then of the second and so on.
        names: the kinds, of `WORDS`.
        who: whom the captions name.
        scenes: that they name.
    """
    true = true_words(who, scenes)
    of_kinds = logits.split([len(WORDS[name].options) for name in names], 1)
    return {
        name: F.cross_entropy(of_kind, true[name], ignore_index=NO_WORD, reduction="sum")
        / (true[name] != NO_WORD).sum().clamp(min=1)
        for name, of_kind in zip(names, of_kinds, strict=True)
    }


def told_words(told: Sequence[str], true: Sequence[str]) -> dict[str, list[float]]:
    """Whether captions say the words of the true ones.

    Args:
        told: captions of pictures, in anybody's words.
        true: the world's own, of the same pictures.

    Returns:
        For each kind of word, 1 or 0 for each true caption that has one; a bird's mood, which nobody sees, is left out.
    """
    found: dict[str, list[float]] = {}
    for name, options in _SPELLED.items():
        for said, truth in zip(told, true, strict=True):
            wanted = options.intersection(truth.split())
            if wanted and not (name == "mood" and "bird" in truth.split()):
                found.setdefault(name, []).append(float(options.intersection(said.split()) == wanted))
    return found


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
    for name, true in true_words(who, scenes).items():
        rows = (true != NO_WORD).nonzero().flatten()
        if not len(rows):
            continue
        some, at = who.take(rows), scenes.take(rows)
        word = WORDS[name]
        texts = [panel_captions(*_said(some, at, word.field, option)) for option in word.options]
        said = torch.stack([sentences(column) for column in texts], 1)
        best = torch.einsum("nd,nkd->nk", pictures[rows], said).argmax(1)
        found[name] = (best == true[rows]).float().tolist()
    return found


def _said(who: Individuals, scenes: Scenes, field: str, option: int) -> tuple[Individuals, Scenes]:
    """The same rows with one word of all captions replaced."""
    if field == "hue":
        return dataclasses.replace(who, hue=torch.full_like(who.hue, option / len(COLORS))), scenes
    if hasattr(who, field):
        return dataclasses.replace(who, **{field: torch.full_like(who.kind, option)}), scenes
    return who, dataclasses.replace(scenes, **{field: torch.full_like(scenes.place, option)})
