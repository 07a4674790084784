"""How the stock `Flux2KleinPipeline` draws after words."""

from __future__ import annotations

from typing import Any

TRUE_GUIDANCE = "guidance_scale"
"""Its name of true guidance, away from the negative prompt."""
FURTHER_PROMPTS: tuple[str, ...] = ()
"""Its names of prompts for further encoders."""
ATTENTION = "attention_kwargs"
"""Its name of what attention layers are told."""


def own_arguments(count: int, *, steps: int, true_guidance: float, guidance: float) -> dict[str, Any]:
    """What the stock pipeline is told of guidance: there is no embedded one, and distilled members ignore all."""
    return {"guidance_scale": true_guidance}


def whole_text(pipeline: Any, prompt: str) -> tuple[Any, str]:
    """The tokenizer of the encoder that reads a prompt whole, and the text that it is given."""
    messages = [{"role": "user", "content": prompt}]
    text = pipeline.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    return pipeline.tokenizer, text
