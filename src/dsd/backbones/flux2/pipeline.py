"""How the stock `Flux2KleinPipeline` draws after words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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

    The family has no embedded guidance; distilled members ignore true guidance too.
    """
    return pipeline(
        prompt=list(prompts),
        guidance_scale=true_guidance,
        height=size[0],
        width=size[1],
        num_inference_steps=steps,
        max_sequence_length=max_sequence_length,
        generator=list(generators),
        **more,
    ).images


def text_length(pipeline: Any, prompt: str) -> int:
    """Tokens of a prompt in the encoder that reads it whole."""
    messages = [{"role": "user", "content": prompt}]
    text = pipeline.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return len(pipeline.tokenizer(text).input_ids)
