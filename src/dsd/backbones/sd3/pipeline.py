"""How the stock `StableDiffusion3Pipeline` draws after words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image


def text_to_image(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    size: tuple[int, int],
    steps: int,
    true_guidance: float,
    guidance: float,
    max_sequence_length: int,
    generators: Sequence[torch.Generator],
    **more: Any,
) -> list[Image.Image]:
    """See `dsd.generate.text_to_image.TextToImage.draw`; ``more`` is passed on to the pipeline.

    The family has no embedded guidance. Sigmas are given, for the stock pipeline's own end before the last step of
    `dsd.flow.schedule`.
    """
    return pipeline(
        list(prompts),
        negative_prompt=[""] * len(prompts) if true_guidance != 1 else None,
        guidance_scale=true_guidance,
        height=size[0],
        width=size[1],
        num_inference_steps=steps,
        sigmas=np.linspace(1.0, 1 / steps, steps).tolist(),
        max_sequence_length=max_sequence_length,
        generator=list(generators),
        **more,
    ).images


def text_length(pipeline: Any, prompt: str) -> int:
    """Tokens of a prompt in the encoder that reads it whole."""
    return len(pipeline.tokenizer_3(prompt).input_ids)
