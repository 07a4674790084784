"""The plain text-to-image model: it follows the words and knows nothing of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from diffusers import FluxPipeline
from PIL import Image

from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.setting import Setting
from dsd.models import resolve, revision_or_name


@dataclass(frozen=True, kw_only=True)
class TextOnly:
    """Draws prompts with a stock `FluxPipeline`.

    Attributes:
        pipeline: the text-to-image model.
        drawing: how.
        fingerprint: see `SubjectMethod`.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    pipeline: Any
    drawing: Drawing
    fingerprint: str
    name: str = "teacher"
    subjects_at_once: int = 16

    @classmethod
    def load(
        cls,
        base: str,
        drawing: Drawing,
        *,
        name: str = "teacher",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """Loads a FLUX folder, hub id or `embedded:NAME`."""
        folder = resolve(base)
        pipeline = FluxPipeline.from_pretrained(folder, dtype=dtype, use_safetensors=True).to(device)
        pipeline.set_progress_bar_config(disable=True)
        fingerprint = f"{revision_or_name(base)}-{drawing.without_picture}"
        return cls(pipeline=pipeline, drawing=drawing, fingerprint=fingerprint, name=name)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing: zero-shot."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request; a picture depends on its own seed alone."""
        drawing, pictures = self.drawing, []
        for start in range(0, len(requests), drawing.batch):
            batch = requests[start : start + drawing.batch]
            pictures += self.pipeline(
                [request.prompt for request in batch],
                negative_prompt=[""] * len(batch) if drawing.true_guidance != 1 else None,
                true_cfg_scale=drawing.true_guidance,
                guidance_scale=drawing.sampling.guidance,
                height=drawing.size[0],
                width=drawing.size[1],
                num_inference_steps=drawing.sampling.steps,
                max_sequence_length=drawing.max_sequence_length,
                generator=[torch.Generator().manual_seed(request.seed) for request in batch],
                **self.further(batch),
            ).images
        return pictures

    def further(self, batch: Sequence[Request]) -> dict[str, Any]:
        """What the pipeline is told beside the words, by methods that differ from this one in that alone."""
        return {}


def teacher(setting: Setting) -> TextOnly:
    """The row of the plain text-to-image model."""
    return TextOnly.load(setting.base, setting.drawing, name=setting.name, device=setting.device, dtype=setting.dtype)
