"""Tiny random encoders that measure, in the stock layouts of their libraries."""

from __future__ import annotations

from functools import cache

import tiny

from dsd.world.recipes import clip, dino


@cache
def identity_encoder() -> str:
    """An untrained tiny-dino."""
    folder = tiny.scratch() / "dino"
    dino.DinoTask(steps=1).export(folder, "random")
    return str(folder)


@cache
def agreement_encoder() -> str:
    """An untrained tiny-clip."""
    folder = tiny.scratch() / "clip"
    clip.ClipTask(steps=1).export(folder, "random")
    return str(folder)
