"""One training step on one screen: draw the randomness, build the noisy frames and what is given, weigh the loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dsd import flow
from dsd.backbones.cached import where_kept
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import Samples
from dsd.frames import Film


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What is learned from a pair, apart from the pair.

    Attributes:
        film: the frames and their loss weights.
        empty_frame: latents (1, c, h, w) that stand for a frame that is not given.
        empty_text: the encoded empty caption, batch of 1.
        text_dropout: share of samples that see the empty text.
        image_dropout: share of samples whose condition is all zero, or that see no cached reference.
        sigma_density: of the noise levels, before the shift.
        shift: resolution shift of the frames that are denoised, as at inference.
        guidance: embedded guidance of a guidance-distilled backbone; others ignore it.
    """

    film: Film
    empty_frame: Tensor
    empty_text: Text
    text_dropout: float
    image_dropout: float
    sigma_density: flow.SigmaDensity
    shift: float
    guidance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Draw:
    """All that is random about a batch of b samples.

    Attributes:
        sigma: (b,) in [0, 1].
        noise: (b, d, c, h, w), of the frames that are denoised.
        keep_text: (b,) bool; False where the text is dropped.
        keep_image: (b,) bool; False where what is given is dropped.
    """

    sigma: Tensor
    noise: Tensor
    keep_text: Tensor
    keep_image: Tensor

    def take(self, rows: slice, device: torch.device | str) -> Draw:
        """The randomness of some of the samples, on a device."""
        return Draw(**{name: value[rows].to(device) for name, value in vars(self).items()})


def draw(objective: Objective, count: int, generator: torch.Generator) -> Draw:
    """Draws the randomness of a batch; a function of the generator's state alone."""
    return Draw(
        sigma=flow.sample_sigmas(count, objective.sigma_density, objective.shift, generator),
        keep_text=torch.rand(count, generator=generator) >= objective.text_dropout,
        keep_image=torch.rand(count, generator=generator) >= objective.image_dropout,
        noise=objective.film.noise(objective.empty_frame.cpu(), generator, count),
    )


def losses(backbone: StockBackbone, objective: Objective, samples: Samples, draw: Draw) -> dict[str, Tensor]:
    """The objective on a batch (DESIGN section 2, phase 3).

    Args:
        backbone: prepared for the film's flavour.
        objective: what is learned.
        samples: the pairs.
        draw: the batch's randomness.

    Returns:
        ``loss``, to descend on, and ``loss_target``, the plain error on the frames that are not given.
    """
    film, latents = objective.film, objective.film.denoised(samples.frames)
    condition = film.condition(film.references(samples.frames), objective.empty_frame)
    text = text_or_empty(samples.text, objective.empty_text, draw.keep_text)

    def model(noisy: Tensor, sigma: Tensor) -> Tensor:
        if film.is_cached:
            return cached_velocity(backbone, noisy, sigma, text, condition, draw.keep_image, objective.guidance)
        shown = condition * draw.keep_image.view(-1, 1, 1, 1, 1)
        return backbone.velocity(noisy, sigma, text, condition=shown, guidance=objective.guidance)

    errors = flow.matching_errors(model, latents, draw.noise, draw.sigma)
    loss = (film.loss_weights(latents.device) * errors).mean()
    return {"loss": loss, "loss_target": film.drawn(errors.detach()).mean()}


def cached_velocity(
    backbone: StockBackbone,
    noisy: Tensor,
    sigma: Tensor,
    text: Text,
    given: Tensor,
    keep: Tensor,
    guidance: float | None,
) -> Tensor:
    """The velocity of a cached model whose references are kept anew, with gradients.

    Args:
        backbone: cached.
        noisy: (b, t, c, h, w), the frames to draw.
        sigma: (b,).
        text: one prompt each.
        given: latents (b, r, c, h, w) of the references.
        keep: (b,) bool; False where they are not seen.
        guidance: embedded guidance.
    """

    def ask(rows: list[int], sees: bool) -> Tensor:
        reference = backbone.reference(given[rows]) if sees else None
        return backbone.velocity(noisy[rows], sigma[rows], text.take(rows), guidance=guidance, reference=reference)

    return where_kept(ask, keep)


def text_or_empty(text: Text, empty: Text, keep: Tensor) -> Text:
    """Each sample's text where ``keep`` (b,) holds, the empty text elsewhere."""
    tokens = torch.where(keep.view(-1, 1, 1), text.tokens, empty.tokens)
    if text.pooled is None or empty.pooled is None:
        return Text(tokens, None)
    return Text(tokens, torch.where(keep.view(-1, 1), text.pooled, empty.pooled))
