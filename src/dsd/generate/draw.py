"""The one sampling loop of models that see a picture: guidance by text and by image, from noise to latents."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsd import flow
from dsd.backbones.protocol import Text
from dsd.sampling import Sampling

Velocity: TypeAlias = Callable[
    [Float[Tensor, "nb ..."], Float[Tensor, " nb"], Text, Bool[Tensor, " nb"]], Float[Tensor, "nb ..."]
]
"""``velocity(noisy_latents, sigma, text, keep_image)`` of ``n`` guidance branches, one after the other; where
``keep_image`` does not hold, the model is shown no picture."""


def draw(
    velocity: Velocity,
    noise: Float[Tensor, "b ..."],
    text: Text,
    no_text: Text,
    sampling: Sampling,
    shift: float,
    callback: flow.Callback | None = None,
) -> Float[Tensor, "b ..."]:
    """Denoises a batch; all guidance branches that `flow.branch_weights` needs go through the model at once.

    Args:
        velocity: of the model.
        noise: standard normal.
        text: one prompt each.
        no_text: the empty prompt, a batch of 1.
        sampling: steps and scales.
        shift: resolution shift of the canvas, as in training.
        callback: called with the step's number and the latents after it.
    """
    count, nothing = len(noise), no_text.take([0] * len(noise))
    branches = [(nothing, False), (nothing, True), (text, True)]
    weights = flow.branch_weights(sampling.text_scale, sampling.image_scale)
    needed = [branch for branch, weight in zip(branches, weights, strict=True) if weight != 0]
    texts = Text.concat([words for words, _ in needed])
    keep = torch.tensor([kept for _, kept in needed], device=noise.device).repeat_interleave(count)
    model = flow.guided_in_one_pass(
        lambda latents, sigma: velocity(latents, sigma, texts, keep),
        text_scale=sampling.text_scale,
        image_scale=sampling.image_scale,
    )
    return flow.euler(model, noise, flow.schedule(sampling.steps, shift), callback)


def shown(condition: Float[Tensor, "b ..."], keep: Bool[Tensor, " nb"]) -> Float[Tensor, "nb ..."]:
    """A condition for each guidance branch: all zeros where no picture is shown, as the published model was trained."""
    places = [1] * (condition.ndim - 1)
    return condition.repeat(len(keep) // len(condition), *places) * keep.view(-1, *places)
