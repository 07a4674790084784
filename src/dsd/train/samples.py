"""What a run shows of itself: for held-out pairs the reference, the student's drawing and the target in one picture."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from dsd.backbones.protocol import Backbone, Text
from dsd.data.latents import Samples
from dsd.generate.draw import draw, shown
from dsd.images import contact_sheet, to_pil
from dsd.sampling import Sampling
from dsd.train.step import Objective


@torch.no_grad()
def draw_targets(backbone: Backbone, objective: Objective, samples: Samples, sampling: Sampling, seed: int) -> Tensor:
    """Latents (b, c, h, w) of the target frame, drawn from each sample's reference and caption as a user would.

    Args:
        backbone: widened.
        objective: what is learned.
        samples: with references and captions.
        sampling: as the finished student is to be drawn with.
        seed: of the noise; the same in every sheet, so that sheets of several steps compare.
    """
    film, count = objective.film, len(samples.reference)
    condition = film.condition(samples.reference[:, None], objective.empty_frame)

    def velocity(latents: Tensor, sigma: Tensor, text: Text, keep: Tensor) -> Tensor:
        return backbone.velocity(latents, sigma, text, condition=shown(condition, keep), guidance=sampling.guidance)

    noise = film.noise(samples.reference, torch.Generator().manual_seed(seed), count)
    latents = draw(velocity, noise, samples.text, objective.empty_text, sampling, objective.shift)
    return film.targets(latents)[:, 0]


@torch.no_grad()
def sample_sheet(
    backbone: Backbone, objective: Objective, samples: Samples, captions: list[str], sampling: Sampling, seed: int
) -> Image.Image:
    """A sheet with a row for each sample: reference, drawing, target; see `draw_targets`."""
    drawn = draw_targets(backbone, objective, samples, sampling, seed)
    columns = [to_pil(backbone.decode(latents)) for latents in (samples.reference, drawn, samples.target)]
    rows = [list(row) for row in zip(*columns, strict=True)]
    return contact_sheet(rows, labels=["reference", "student", "target"], row_labels=captions)
