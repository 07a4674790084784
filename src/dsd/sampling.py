"""How pictures are denoised: the one place that has defaults for it.

A recipe says how its students draw, training keeps that with the adapter, and whoever draws with it reads it there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsd.errors import UserError
from dsd.limits import MOST_SCALE, MOST_STEPS, require_within

Flavour = Literal["canvas", "cached"]
"""How a model is shown given frames. ``canvas``, the paper: they are drawn anew beside the others, and told as further
channels of all. ``cached``: they are clean tokens that the others attend to and that attend to themselves alone, so
that their keys and values are computed once a picture (as in EasyControl, arXiv 2503.07027)."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a two-frame model, or another model that sees a picture, draws. The defaults are the published model's.

    Attributes:
        steps: Euler steps.
        text_scale: true guidance by the text: how far to go from "image alone" towards "image and text"; 1 is off.
        image_scale: true guidance by the image: how far to go from nothing towards "image alone"; 1 is off.
        guidance: embedded guidance value of guidance-distilled models; others ignore it.
        guidance_interval: the noise levels (lowest, highest) between which both scales hold; elsewhere they are 1, and
            a step costs one evaluation (Kynkäänniemi et al., arXiv 2404.07724).
    """

    steps: int = 28
    text_scale: float = 1.5
    image_scale: float = 1.5
    guidance: float = 3.5
    guidance_interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        require_within("steps", self.steps, 1, MOST_STEPS)
        for name in ("text_scale", "image_scale", "guidance"):
            require_within(name, getattr(self, name), -MOST_SCALE, MOST_SCALE)
        lowest, highest = self.guidance_interval
        if not 0 <= lowest <= highest <= 1:
            raise UserError(
                f"guidance_interval is {self.guidance_interval}, but must be two noise levels from 0 to 1, the lower "
                "one first"
            )

    def scales_at(self, sigma: float) -> tuple[float, float]:
        """Text and image scale at a noise level in [0, 1]."""
        lowest, highest = self.guidance_interval
        return (self.text_scale, self.image_scale) if lowest <= sigma <= highest else (1.0, 1.0)
