"""Individuals of the drawn world that no model was trained on: pictures and words to begin with."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from dsd.images import encode_png, to_pil
from dsd.serve.examples import Examples, Subject
from dsd_world.captions import PLACE_PHRASES, POSITION_PHRASES, subject_phrases
from dsd_world.draw import draw_panels
from dsd_world.individuals import (
    ACCESSORIES,
    COLORS,
    KINDS,
    MOODS,
    PATTERNS,
    Individuals,
    sample_individuals,
    sample_scenes,
)

_FOLDER = Path(__file__).parent
INDIVIDUALS = (9, 14, 17, 15, 28, 19)
"""Their numbers among the evaluation's."""
_SCENES = (
    "smiling on the left at the beach",
    "sad in the middle in the snow",
    "surprised on the right at night",
    "smiling in the middle in the forest",
)


def examples() -> Examples:
    """The examples of models whose base draws this world."""
    who = _who()
    begun = ["on the left at the beach" if thing else _SCENES[0] for thing in who.is_object.tolist()]
    return Examples(
        suits=("embedded:tiny-flux",),
        subjects=tuple(
            Subject(picture=_FOLDER / f"{number}.png", words=f"a {words}", scene=scene)
            for number, words, scene in zip(INDIVIDUALS, subject_phrases(who), begun, strict=True)
        ),
        scenes=_SCENES,
        knows={
            "who": KINDS,
            "colour": COLORS,
            "pattern": PATTERNS,
            "wearing": tuple(f"with a {worn}" for worn in ACCESSORIES[1:]),
            "mood": MOODS,
            "where in the picture": POSITION_PHRASES,
            "place": PLACE_PHRASES,
        },
    )


def pictures() -> list[Image.Image]:
    """The references as the world draws them; the files beside this module hold them."""
    index = torch.tensor(INDIVIDUALS)
    return to_pil(draw_panels(_who(), sample_scenes("evaluation", index)))


def write_pictures() -> None:
    """Writes the files anew."""
    for number, picture in zip(INDIVIDUALS, pictures(), strict=True):
        (_FOLDER / f"{number}.png").write_bytes(encode_png(picture))


def _who() -> Individuals:
    return sample_individuals("evaluation", torch.tensor(INDIVIDUALS))
