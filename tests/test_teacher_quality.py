"""Claims about the teacher's figures: they are high for the world's own drawings and at chance for other ones."""

from __future__ import annotations

import pytest
import torch

from dsd.encoders import PictureTextEncoder
from dsd.images import to_pil
from dsd_world.benchmark import agreement_encoder, identity_encoder
from dsd_world.draw import draw_panels
from dsd_world.individuals import sample_individuals, sample_scenes
from dsd_world.sheets import draw_sheets
from dsd_world.teacher_quality import CONSISTENT, pair_scale, panel_agreement
from dsd_world.words import confirmed_words

INDEX = torch.arange(96)
CHANCE = {
    "place": 1 / 8,
    "position": 1 / 3,
    "species": 1 / 6,
    "object": 1 / 3,
    "colour": 1 / 8,
    "pattern": 1 / 5,
    "accessory": 1 / 4,
    "mood": 1 / 3,
}


@pytest.fixture(scope="module")
def encoder() -> PictureTextEncoder:
    return agreement_encoder()


def _shares(shift: int, encoder: PictureTextEncoder) -> dict[str, float]:
    """Confirmed words of the captions of `INDEX` in pictures of individuals and scenes ``shift`` rows on."""
    drawn = draw_panels(sample_individuals("evaluation", INDEX + shift), sample_scenes("evaluation", INDEX + shift))
    who, scenes = sample_individuals("evaluation", INDEX), sample_scenes("evaluation", INDEX)
    found = confirmed_words(encoder.pictures(to_pil(drawn)), who, scenes, encoder.sentences)
    return {kind: sum(values) / len(values) for kind, values in found.items()}


def test_words_are_confirmed_in_the_truth_and_not_in_other_pictures(encoder: PictureTextEncoder) -> None:
    true, other = _shares(0, encoder), _shares(1000, encoder)
    assert true.keys() == other.keys() == CHANCE.keys()
    for kind, chance in CHANCE.items():
        assert other[kind] < chance + 0.3, kind
        assert true[kind] > 0.75, kind


def test_words_that_a_caption_lacks_are_not_counted(encoder: PictureTextEncoder) -> None:
    who, scenes = sample_individuals("evaluation", INDEX), sample_scenes("evaluation", INDEX)
    pictures = encoder.pictures(to_pil(draw_panels(who, scenes)))
    found = confirmed_words(pictures, who, scenes, encoder.sentences)
    objects = int(who.is_object.sum())
    assert len(found["object"]) == objects
    assert len(found["accessory"]) == len(found["species"]) == len(INDEX) - objects
    assert len(found["mood"]) < len(INDEX) - objects
    assert len(found["place"]) == len(INDEX)


@pytest.mark.slow
def test_panels_agree_unless_they_drift() -> None:
    encoder = identity_encoder()
    scale = pair_scale(encoder)
    sheets = draw_sheets("evaluation", torch.arange(40), drift=0.5)
    panels = [[sheet.crop((x, y, x + 64, y + 64)) for y in (0, 64) for x in (0, 64)] for sheet in to_pil(sheets.images)]
    agreement = panel_agreement(panels, encoder, scale)
    assert agreement.shape == (40, 6)
    consistent, drifted = (agreement >= CONSISTENT).all(1), sheets.drifted.any(1)
    assert (consistent == ~drifted).float().mean() > 0.85
    assert abs(agreement[~drifted].mean() - 1) < 0.2
