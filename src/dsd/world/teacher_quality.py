"""What a teacher draws, against what was asked and against the world's own drawings, by the evaluation encoders.

The figures that say whether a teacher of the drawn world is good enough to make training data: are the words of a
caption in the picture, and do the panels of a sheet show one individual.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from dsd.curate.config import CurateConfig
from dsd.curate.grids import Teacher
from dsd.data.records import Grid, GridPrompt, Model
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
from dsd.images import to_pil
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
    Split,
)
from dsd.world.recipes.vlm_data import equal_word_pairs

CONSISTENT = 0.5
"""Identity, on the scale from a stranger (0) to the same individual (1), above which two panels show the same one."""
_ANCHOR_PAIRS = 1024


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
    pictures: Sequence[Image.Image], who: Individuals, scenes: Scenes, encoder: PictureTextEncoder
) -> dict[str, list[float]]:
    """Whether each word of each picture's caption fits the picture better than all other words in its place.

    Args:
        pictures: drawn after `panel_captions` of the same rows.
        who: whom the captions name.
        scenes: that they name.
        encoder: compares pictures and captions.

    Returns:
        For each kind of word, 1 or 0 for each picture whose caption has such a word.
    """
    seen = encoder.pictures(pictures)
    found = {}
    for name, choice in _choices(who, scenes).items():
        rows = choice.applies.nonzero().flatten()
        some, at = who.take(rows), scenes.take(rows)
        texts = [panel_captions(*_said(some, at, choice.field, option)) for option in choice.options]
        said = torch.stack([encoder.sentences(column) for column in texts], 1)
        best = torch.einsum("nd,nkd->nk", seen[rows], said).argmax(1)
        found[name] = (best == choice.true[rows]).float().tolist()
    return found


def _said(who: Individuals, scenes: Scenes, field: str, option: int) -> tuple[Individuals, Scenes]:
    """The same rows with one word of all captions replaced."""
    if field == "hue":
        return dataclasses.replace(who, hue=torch.full_like(who.hue, option / len(COLORS))), scenes
    if field in {f.name for f in dataclasses.fields(Individuals)}:
        return dataclasses.replace(who, **{field: torch.full_like(who.kind, option)}), scenes
    return who, dataclasses.replace(scenes, **{field: torch.full_like(scenes.place, option)})


@dataclass(frozen=True)
class SameOrOther:
    """tiny-dino's verdict on two pictures: their cosine between strangers of equal words (0) and one individual (1)."""

    stranger: float
    same: float

    @classmethod
    def measured(cls, encoder: ImageEncoder, split: Split = "validation") -> SameOrOther:
        """Anchors from drawn pairs at equal caption words."""
        pairs = equal_word_pairs(split, torch.arange(_ANCHOR_PAIRS))
        cosines = (encoder.pooled(to_pil(pairs.first)) * encoder.pooled(to_pil(pairs.second))).sum(1)
        same = torch.tensor(pairs.same)
        return cls(cosines[~same].mean().item(), cosines[same].mean().item())

    def __call__(self, cosines: Tensor) -> Tensor:
        """Identity; `CONSISTENT` and above is the same individual."""
        return (cosines - self.stranger) / (self.same - self.stranger)


def teacher_sheets(config: CurateConfig, captions: Sequence[str], seed: int = 0) -> list[Grid]:
    """Sheets of captions as curation has them drawn; `dsd.curate.panels.cut` refuses some of them.

    Args:
        config: names the teacher and how it draws.
        captions: texts of sheets.
        seed: of the noise.
    """
    nobody = Model(name="", revision="")
    prompts = [GridPrompt(caption="", subject="", scenes=(), text=text, writer=nobody) for text in captions]
    return Teacher(config).draw(prompts, seed)


def panel_agreement(
    sheets: Sequence[Sequence[Image.Image]], encoder: ImageEncoder, scale: SameOrOther
) -> Float[Tensor, "sheets pairs"]:
    """Identity of every pair of panels of every sheet.

    Args:
        sheets: the panels of each, equally many.
        encoder: of identity.
        scale: what its cosines mean.
    """
    panels = len(sheets[0])
    features = encoder.pooled([panel for sheet in sheets for panel in sheet]).unflatten(0, (len(sheets), panels))
    first, second = torch.tensor(list(combinations(range(panels), 2))).T
    return scale((features[:, first] * features[:, second]).sum(2))
