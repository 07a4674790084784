"""This project's own method: the two-frame student."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.setting import Setting, Training
from dsd.generate.two_frame import TwoFramePipeline
from dsd.models import resolve, revision_of, revision_or_name
from dsd.train.trainer import train


@dataclass(frozen=True, kw_only=True)
class TwoFrameStudent:
    """Draws with `TwoFramePipeline`; nothing is fitted to a subject.

    Attributes:
        pipeline: with its adapter.
        drawing: how.
        fingerprint: see `SubjectMethod`.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    pipeline: TwoFramePipeline
    drawing: Drawing
    fingerprint: str
    name: str = "student"
    subjects_at_once: int = 16

    @classmethod
    def load(
        cls,
        base: str,
        adapter: str | Path,
        drawing: Drawing,
        *,
        name: str = "student",
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TwoFrameStudent:
        """Loads a base model and an adapter folder (or `embedded:NAME` of either)."""
        pipeline = TwoFramePipeline.from_pretrained(base, adapter=adapter, dtype=dtype).to(device)
        pipeline.set_progress_bar_config(disable=True)
        fingerprint = f"{revision_of(resolve(str(adapter)))}-{revision_or_name(base)}-{drawing.with_picture}"
        return cls(pipeline=pipeline, drawing=drawing, fingerprint=fingerprint, name=name)

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing: zero-shot."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request, of several targets the first; a picture depends on its own seed alone."""
        pictures: list[Image.Image] = []
        sampling = self.drawing.sampling
        for start in range(0, len(requests), self.drawing.batch):
            batch = requests[start : start + self.drawing.batch]
            drawn: Any = self.pipeline(
                [request.prompt for request in batch],
                image=[[request.reference] for request in batch],
                text_scale=sampling.text_scale,
                image_scale=sampling.image_scale,
                num_inference_steps=sampling.steps,
                guidance_scale=sampling.guidance if self.pipeline.backbone.takes_guidance else None,
                generator=[torch.Generator().manual_seed(request.seed) for request in batch],
            )
            pictures += [of_film[0] if isinstance(of_film, list) else of_film for of_film in drawn.images]
        return pictures


def _trained(training: Training) -> Path:
    return train(training.budget, training.pairs, training.run, latents=training.latents)


def student(setting: Setting) -> TwoFrameStudent:
    """The row of a student: of a finished adapter, or trained first."""
    adapter = setting.weights or _trained(setting.training())
    return TwoFrameStudent.load(
        setting.base, adapter, setting.drawing, name=setting.name, device=setting.device, dtype=setting.dtype
    )
