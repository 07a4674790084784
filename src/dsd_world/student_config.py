"""What the shipped student is made of: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dsd.curate.config import CurateConfig
from dsd.train.config import TrainConfig
from dsd_world.recipe import tiny


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """How much of everything.

    Attributes:
        curate: phases 1 and 2; its captions are written by the recipe.
        train: phase 3.
        drawn_pairs: of the ceiling, which is trained on them in place of curated ones.
    """

    curate: CurateConfig = field(default_factory=lambda: replace(tiny().curate, units=192))
    train: TrainConfig = field(
        default_factory=lambda: replace(tiny().train, steps=3000, ema_decay=0.995, held_out=8, sample_every=400)
    )
    drawn_pairs: int = 32768
