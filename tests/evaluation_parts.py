"""Tiny encoders that measure, in the stock layouts of their libraries."""

from __future__ import annotations

from functools import cache

import tiny

from dsd_world.models import clip, dino

QUALITIES = ("identity", "prompt_following", "diversity", "vendi", "copy", "clip_i", "clip_t")
"""The columns of the drawn world that pictures decide, whatever else is measured."""
_WARM = range(50, 66)  # steps after the warm-up, so that a few are enough


@cache
def identity_encoder() -> str:
    """A tiny-dino after a few steps, so that it tells strangers from the true individuals at least a little."""
    folder = tiny.scratch() / "dino"
    task = dino.DinoTask(steps=1000)
    for step in _WARM:
        task.train_step(step)
    task.export(folder, "hardly trained")
    return str(folder)


@cache
def agreement_encoder() -> str:
    """An untrained tiny-clip."""
    folder = tiny.scratch() / "clip"
    clip.ClipTask(steps=1).export(folder, "random")
    return str(folder)
