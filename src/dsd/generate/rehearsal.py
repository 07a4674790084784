"""The smallest picture, in one step, before a model is trusted: files may each be sound and not fit together."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from dsd.errors import UserError, reason_of
from dsd.generate.two_frame import TwoFramePipeline


def rehearse(pipeline: TwoFramePipeline, base: str) -> None:
    """Draws one token a frame, so that what a damaged config does to a model is found while it is loaded.

    Args:
        pipeline: With its adapter, where it will draw.
        base: The model's name, for the message.

    Raises:
        UserError: It cannot draw, or what it draws are no numbers.
    """
    try:
        side = pipeline.backbone.pixels_per_token
        references = [[Image.new("RGB", (side, side), "gray")] * sum(pipeline.film.given)]
        drawn: Any = pipeline(
            "a", references, height=side, width=side, num_inference_steps=1,
            generator=torch.Generator().manual_seed(0), output_type="pt",
        )  # fmt: skip
    except Exception as error:
        raise UserError(
            f'"{base}" loads, but cannot draw ({reason_of(error)}); give the folder or hub id of a whole model'
        ) from error
    if not torch.as_tensor(drawn.images).isfinite().all():
        raise UserError(f'"{base}" draws no finite numbers; give the folder or hub id of a whole model')
