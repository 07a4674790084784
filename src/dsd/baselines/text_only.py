"""The plain text-to-image model: it follows the words and knows nothing of the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from PIL import Image

from dsd.backbones.stock import StockBackbone
from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.setting import Setting
from dsd.generate.text_to_image import TextToImage
from dsd.models import revision_or_name


@dataclass(frozen=True, kw_only=True)
class TextOnly:
    """Draws prompts with the plain text-to-image model.

    Attributes:
        model: the text-to-image model.
        drawing: how.
        fingerprint: see `SubjectMethod`.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    model: TextToImage
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
        """Loads a folder, hub id or `embedded:NAME`."""
        model = TextToImage.load(base, device=device, dtype=dtype)
        fingerprint = f"{revision_or_name(base)}-{drawing.without_picture}"
        return cls(model=model, drawing=drawing, fingerprint=fingerprint, name=name)

    @property
    def pipeline(self) -> Any:
        """The stock pipeline."""
        return self.model.pipeline

    @property
    def backbone(self) -> StockBackbone:
        """Its networks as training sees them."""
        return self.model.backbone

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing: zero-shot."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request; a picture depends on its own seed alone."""
        drawing, pictures = self.drawing, []
        for start in range(0, len(requests), drawing.batch):
            batch = requests[start : start + drawing.batch]
            pictures += self.model.draw(
                [request.prompt for request in batch],
                size=drawing.size,
                steps=drawing.sampling.steps,
                true_guidance=drawing.true_guidance,
                guidance=drawing.sampling.guidance,
                max_sequence_length=drawing.max_sequence_length,
                generators=[torch.Generator().manual_seed(request.seed) for request in batch],
                **self.further(batch),
            )
        return pictures

    def further(self, batch: Sequence[Request]) -> dict[str, Any]:
        """What the pipeline is told beside the words, by methods that differ from this one in that alone."""
        return {}


def teacher(setting: Setting) -> TextOnly:
    """The row of the plain text-to-image model."""
    return TextOnly.load(setting.base, setting.drawing, name=setting.name, device=setting.device, dtype=setting.dtype)
