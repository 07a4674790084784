"""Rectified flow: the path, the one resolution shift, densities of sigma, the objective, samplers and guidance.

The path runs from data to noise on a straight line, ``noisy_latents = (1 - sigma) latents + sigma noise``, and the
model learns its ``velocity = noise - latents`` (Liu et al., arXiv 2209.03003; Esser et al., arXiv 2403.03206). Training
and sampling both come here for the shift, so they agree. Nothing in this file knows a network: a `Model` is any
function ``model(latents, sigma) -> velocity``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.errors import UserError

Model: TypeAlias = Callable[[Float[Tensor, "b ..."], Float[Tensor, " b"]], Float[Tensor, "b ..."]]
Callback: TypeAlias = Callable[[int, Tensor], None]
SigmaDensity = Literal["uniform", "logit-normal"]


def noisy_latents(
    latents: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """The point of the path at ``sigma`` in [0, 1]: 0 is data, 1 is noise."""
    sigma = sigma.view(-1, *[1] * (latents.ndim - 1))
    return (1 - sigma) * latents + sigma * noise


def velocity(latents: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."]) -> Float[Tensor, "b ..."]:
    """The direction of the path, from data to noise; the same at every sigma."""
    return noise - latents


def shift_sigmas(sigmas: Float[Tensor, " n"], shift: float) -> Float[Tensor, " n"]:
    """Moves sigmas in [0, 1] towards noise (shift > 1) or data (shift < 1); 0 and 1 stay (arXiv 2403.03206, eq. 23)."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


@dataclass(frozen=True, kw_only=True)
class ResolutionShift:
    """How far sigmas are shifted for a canvas of so many tokens: its logarithm is linear in their number.

    Attributes:
        base_tokens: Tokens at which the log-shift is `base_shift`.
        max_tokens: Tokens at which it is `max_shift`; the line goes on beyond both.
        base_shift: Log-shift at `base_tokens`.
        max_shift: Log-shift at `max_tokens`.
    """

    base_tokens: int = 256
    max_tokens: int = 4096
    base_shift: float = 0.5
    max_shift: float = 1.15

    @classmethod
    def constant(cls, shift: float) -> ResolutionShift:
        """The same shift whatever the resolution; 1 shifts nothing."""
        return cls(base_shift=math.log(shift), max_shift=math.log(shift))

    @classmethod
    def from_scheduler(cls, config: Mapping[str, Any]) -> ResolutionShift:
        """Reads a diffusers `FlowMatchEulerDiscreteScheduler` config, with the stock pipelines' defaults.

        Raises:
            UserError: The scheduler bends its sigmas in a way that is not a shift.
        """
        for setting in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "shift_terminal"):
            if config.get(setting):
                raise UserError(f"the scheduler sets {setting}, which is not supported; switch it off in its config")
        if not config.get("use_dynamic_shifting", False):
            return cls.constant(config.get("shift", 1.0))
        if config.get("time_shift_type", "exponential") != "exponential":
            raise UserError(f'the scheduler\'s time_shift_type is "{config["time_shift_type"]}", use "exponential"')
        return cls(
            base_tokens=config.get("base_image_seq_len", 256),
            max_tokens=config.get("max_image_seq_len", 4096),
            base_shift=config.get("base_shift", 0.5),
            max_shift=config.get("max_shift", 1.15),
        )

    def shift(self, tokens: int) -> float:
        """The shift for a whole canvas of ``tokens`` image tokens, for `shift_sigmas` and `schedule`."""
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return math.exp(self.base_shift + slope * (tokens - self.base_tokens))


def sample_sigmas(
    count: int, density: SigmaDensity, shift: float, generator: torch.Generator | None = None
) -> Float[Tensor, " count"]:
    """Draws sigmas to train at.

    Args:
        count: How many.
        density: Before the shift: "uniform" on [0, 1], or "logit-normal" (the sigmoid of a standard normal), which
            visits the middle of the path more often (arXiv 2403.03206, section 3.1).
        shift: What sampling at this resolution uses, from `ResolutionShift.shift`.
        generator: Randomness; the result lies on its device.
    """
    device = generator.device if generator is not None else None
    if density == "uniform":
        sigmas = torch.rand(count, generator=generator, device=device)
    else:
        sigmas = torch.randn(count, generator=generator, device=device).sigmoid()
    return shift_sigmas(sigmas, shift)


def schedule(steps: int, shift: float = 1.0) -> Float[Tensor, " steps+1"]:
    """The sigmas that sampling visits: from 1 to 0, evenly spaced before the shift."""
    if steps < 1:
        raise UserError(f"sampling needs at least 1 step, got {steps}")
    return shift_sigmas(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).float()


def matching_errors(
    model: Model, latents: Float[Tensor, "b ..."], noise: Float[Tensor, "b ..."], sigma: Float[Tensor, " b"]
) -> Float[Tensor, "b ..."]:
    """Squared errors of a model's velocity at a point of the path, place by place: flow matching (arXiv 2210.02747).

    Args:
        model: gives the velocity.
        latents: the data.
        noise: standard normal.
        sigma: the point of the path, in [0, 1].
    """
    predicted = model(noisy_latents(latents, noise, sigma), sigma)
    return (predicted.float() - velocity(latents, noise).float()).square()


def euler_step(
    latents: Float[Tensor, "*film"],
    velocity: Float[Tensor, "*film"],
    sigma: Float[Tensor, ""],
    after: Float[Tensor, ""],
) -> Float[Tensor, "*film"]:
    """The point of the path at noise level ``after``, along a straight line from that at ``sigma``."""
    return latents + (after - sigma) * velocity


def euler(
    model: Model, noise: Float[Tensor, "b ..."], sigmas: Float[Tensor, " steps+1"], callback: Callback | None = None
) -> Float[Tensor, "b ..."]:
    """Follows the velocity from noise to data with one evaluation a step.

    Args:
        model: Gives the velocity.
        noise: Standard normal, where the path starts.
        sigmas: Falling from 1 to 0, from `schedule`.
        callback: Called with the step's number and the latents after it.
    """
    latents = noise
    for step, (sigma, after) in enumerate(_pairs(sigmas, noise)):
        latents = euler_step(latents, model(latents, sigma.expand(len(latents))), sigma, after)
        if callback is not None:
            callback(step, latents)
    return latents


def heun(
    model: Model, noise: Float[Tensor, "b ..."], sigmas: Float[Tensor, " steps+1"], callback: Callback | None = None
) -> Float[Tensor, "b ..."]:
    """Second order: two evaluations a step, but one in the last, which ends at sigma 0 (arXiv 2206.00364, algorithm 1).

    Args:
        model: Gives the velocity.
        noise: Standard normal, where the path starts.
        sigmas: Falling from 1 to 0, from `schedule`.
        callback: Called with the step's number and the latents after it.
    """
    latents, count = noise, len(noise)
    for step, (sigma, after) in enumerate(_pairs(sigmas, noise)):
        first = model(latents, sigma.expand(count))
        guess = latents + (after - sigma) * first
        last_step = step == len(sigmas) - 2
        second = first if last_step else model(guess, after.expand(count))
        latents = latents + (after - sigma) * (first + second) / 2
        if callback is not None:
            callback(step, latents)
    return latents


def branch_weights(text_scale: float, image_scale: float) -> tuple[float, float, float]:
    """The weights of the predictions (no image no text, image no text, image and text) in the guided velocity.

    ``v = u + image_scale (i - u) + text_scale (f - i)``: each scale works alone, and at 1 and 1 only ``f`` is left. A
    branch of weight 0 needs no evaluation.
    """
    return 1 - image_scale, image_scale - text_scale, text_scale


def _pairs(sigmas: Tensor, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(itertools.pairwise(sigmas.to(device=like.device)))
