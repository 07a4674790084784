"""Do the panels of a teacher's sheets show one individual, by tiny-dino, which has no part in curation or training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from dsd.curate.config import CurateConfig
from dsd.curate.grids import Teacher
from dsd.data.records import Grid, GridPrompt, Model
from dsd.encoders import ImageEncoder
from dsd.images import to_pil
from dsd.scales import IdentityScale
from dsd_world.examined_pairs import equal_word_pairs
from dsd_world.individuals import Split

CONSISTENT = 0.5
"""Identity, on the scale from a stranger (0) to the same individual (1), above which two panels show the same one."""
_ANCHOR_PAIRS = 1024


def pair_scale(encoder: ImageEncoder, split: Split = "validation") -> IdentityScale:
    """What an encoder's cosine says of two pictures, anchored by drawn pairs at equal caption words."""
    pairs = equal_word_pairs(split, torch.arange(_ANCHOR_PAIRS))
    cosines = (encoder.pooled(to_pil(pairs.first)) * encoder.pooled(to_pil(pairs.second))).sum(1)
    same = torch.tensor(pairs.same)
    return IdentityScale(stranger=cosines[~same].mean().item(), same=cosines[same].mean().item())


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
    sheets: Sequence[Sequence[Image.Image]], encoder: ImageEncoder, scale: IdentityScale
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
    return scale.of_cosines((features[:, first] * features[:, second]).sum(2))
