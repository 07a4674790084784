"""The embedded models on a laptop: the tiny twin of every other recipe."""

from __future__ import annotations

from dsd.curate.config import CurateConfig
from dsd.recipes.recipe import Recipe
from dsd.train.config import TrainConfig


def tiny() -> Recipe:
    """Returns the recipe that runs on two CPU cores without a download."""
    return Recipe(
        summary="the embedded models on a laptop, in minutes",
        curate=CurateConfig(),
        train=TrainConfig(),
    )
