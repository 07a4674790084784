"""A plain text-to-image model of any family: a teacher, and what everything else is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image

from dsd.backbones.registry import backbone_class, drawing_of, family_of
from dsd.backbones.stock import StockBackbone
from dsd.models import resolve
from dsd.weights import load_pipeline


@dataclass(frozen=True, kw_only=True)
class TextToImage:
    """A family's stock pipeline.

    Attributes:
        pipeline: Stock diffusers.
        family: See `dsd.backbones.registry`.
    """

    pipeline: Any
    family: str

    @classmethod
    def load(cls, name: str, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Self:
        """Loads a model.

        Args:
            name: ``embedded:NAME``, a folder or a hub id.
            device: Where it runs.
            dtype: Of its weights.

        Raises:
            UserError: There is no such model, or it is of no family that is known.
        """
        family = family_of(name)
        pipeline = load_pipeline(backbone_class(family).pipeline_class, resolve(name), dtype=dtype)
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline=pipeline.to(device), family=family)

    @property
    def backbone(self) -> StockBackbone:
        """The pipeline's own networks as training sees them."""
        return backbone_class(self.family).from_pipeline(self.pipeline)

    def draw(
        self,
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
        """Draws a picture after each prompt.

        Args:
            prompts: One a picture.
            size: (height, width) in pixels.
            steps: Denoising steps.
            true_guidance: Classifier-free guidance against the empty prompt; 1 is off.
            guidance: Embedded guidance of guidance-distilled models; others ignore it.
            max_sequence_length: Text tokens.
            generators: One a picture.
            **more: What a method adds to the pipeline's arguments.
        """
        own = drawing_of(self.family).own_arguments(
            len(prompts), steps=steps, true_guidance=true_guidance, guidance=guidance
        )
        return self.pipeline(
            prompt=list(prompts), height=size[0], width=size[1], num_inference_steps=steps,
            max_sequence_length=max_sequence_length, generator=list(generators), **own, **more,
        ).images  # fmt: skip

    def text_length(self, prompt: str) -> int:
        """Tokens of a prompt in the encoder that reads it whole."""
        tokenizer, text = drawing_of(self.family).whole_text(self.pipeline, prompt)
        return len(tokenizer(text).input_ids)
