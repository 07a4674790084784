"""How pictures are denoised: the one place that has defaults for it.

A recipe says how its students draw, training keeps that with the adapter, and whoever draws with it reads it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from dsd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a two-frame model, or another model that sees a picture, draws. The defaults are the published model's.

    Attributes:
        steps: Euler steps.
        text_scale: true guidance by the text: how far to go from "image alone" towards "image and text"; 1 is off.
        image_scale: true guidance by the image: how far to go from nothing towards "image alone"; 1 is off.
        guidance: embedded guidance value of guidance-distilled models; others ignore it.
    """

    steps: int = 28
    text_scale: float = 1.5
    image_scale: float = 1.5
    guidance: float = 3.5

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"sampling needs at least 1 step, got {self.steps}")
        for name in ("text_scale", "image_scale", "guidance"):
            if not isfinite(getattr(self, name)):
                raise UserError(f"{name} is {getattr(self, name)}, but must be a finite number")
