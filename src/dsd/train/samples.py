"""What a run shows of itself: for held-out pairs the reference, the student's drawing and the target in one picture."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from dsd import flow
from dsd.backbones.protocol import Backbone, Text
from dsd.data.latents import Samples
from dsd.images import contact_sheet, to_pil
from dsd.train.step import Objective


@dataclass(frozen=True, kw_only=True)
class SampleSettings:
    """How samples are drawn.

    Attributes:
        steps: denoising steps.
        text_scale: true text guidance; the reference is always followed at scale 1.
        seed: of the noise; the same in every sheet, so that sheets of several steps compare.
    """

    steps: int
    text_scale: float
    seed: int


@torch.no_grad()
def draw_targets(backbone: Backbone, objective: Objective, samples: Samples, settings: SampleSettings) -> Tensor:
    """Latents (b, c, h, w) of the target frame, drawn from each sample's reference and caption."""
    canvas, count = objective.canvas, len(samples.reference)
    condition = canvas.condition([samples.reference], objective.empty_frame)
    no_text = objective.empty_text.take([0] * count)

    def branch(text: Text, shown: Tensor) -> flow.Model:
        return lambda latents, sigma: backbone.velocity(
            latents, sigma, text, condition=shown, guidance=objective.guidance
        )

    model = flow.guided(
        branch(no_text, canvas.no_image(condition)),
        branch(no_text, condition),
        branch(samples.text, condition),
        text_scale=settings.text_scale,
        image_scale=1.0,
    )
    generator = torch.Generator().manual_seed(settings.seed)
    noise = torch.randn(condition.shape, generator=generator).to(condition.device)
    return canvas.targets(flow.euler(model, noise, flow.schedule(settings.steps, objective.shift)))[0]


@torch.no_grad()
def sample_sheet(
    backbone: Backbone, objective: Objective, samples: Samples, captions: list[str], settings: SampleSettings
) -> Image.Image:
    """A sheet with a row for each sample: reference, drawing, target."""
    drawn = draw_targets(backbone, objective, samples, settings)
    columns = [to_pil(backbone.decode(latents)) for latents in (samples.reference, drawn, samples.target)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return contact_sheet(rows, labels=["reference", "student", "target"], row_labels=captions)
