"""What a recipe is: complete configs for each phase, under one name."""

from __future__ import annotations

from dataclasses import dataclass

from dsd.curate.config import CurateConfig
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Complete settings from captions to an adapter.

    Attributes:
        summary: One line for `--help`.
        curate: Phases 1 and 2.
        train: Phase 3.
    """

    summary: str
    curate: CurateConfig
    train: TrainConfig
