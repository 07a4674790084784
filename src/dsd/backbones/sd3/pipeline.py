"""How the stock `StableDiffusion3Pipeline` draws after words."""

from __future__ import annotations

from typing import Any

import numpy as np

TRUE_GUIDANCE = "guidance_scale"
"""Its name of true guidance, away from the negative prompt."""
FURTHER_PROMPTS: tuple[str, ...] = ("prompt_2", "prompt_3")
"""Its names of prompts for further encoders."""
ATTENTION = "joint_attention_kwargs"
"""Its name of what attention layers are told."""


def own_arguments(count: int, *, steps: int, true_guidance: float, guidance: float) -> dict[str, Any]:
    """What the stock pipeline is told of guidance, of which there is no embedded one, and of sigmas.

    They are given, for the stock pipeline's own end before the last step of `dsd.flow.schedule`.
    """
    return {
        "negative_prompt": [""] * count if true_guidance != 1 else None,
        "guidance_scale": true_guidance,
        "sigmas": np.linspace(1.0, 1 / steps, steps).tolist(),
    }


def whole_text(pipeline: Any, prompt: str) -> tuple[Any, str]:
    """The tokenizer of the encoder that reads a prompt whole, and the text that it is given."""
    return pipeline.tokenizer_3, prompt
