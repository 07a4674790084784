"""How the stock `FluxPipeline` draws after words."""

from __future__ import annotations

from typing import Any

TRUE_GUIDANCE = "true_cfg_scale"
"""Its name of true guidance, away from the negative prompt."""
FURTHER_PROMPTS: tuple[str, ...] = ("prompt_2",)
"""Its names of prompts for further encoders."""
ATTENTION = "joint_attention_kwargs"
"""Its name of what attention layers are told."""


def own_arguments(count: int, *, steps: int, true_guidance: float, guidance: float) -> dict[str, Any]:
    """What the stock pipeline is told of guidance, embedded and true."""
    return {
        "negative_prompt": [""] * count if true_guidance != 1 else None,
        "true_cfg_scale": true_guidance,
        "guidance_scale": guidance,
    }


def whole_text(pipeline: Any, prompt: str) -> tuple[Any, str]:
    """The tokenizer of the encoder that reads a prompt whole, and the text that it is given."""
    return pipeline.tokenizer_2, prompt
