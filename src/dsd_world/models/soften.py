"""Pictures as a generator would have drawn them: softened, noisy, a little off in brightness."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def blurred(images: Float[Tensor, "n c h w"], sigma: Float[Tensor, " n"]) -> Float[Tensor, "n c h w"]:
    """Gaussian blur with a width of its own for each picture.

    Args:
        images: any values.
        sigma: standard deviations in pixels, 0 to about 2 (the kernel spans 7 pixels).
    """
    offsets = torch.arange(-3, 4, device=images.device, dtype=images.dtype)
    kernel = torch.softmax(-offsets.square() / (2 * sigma.clamp(min=0.05)[:, None].square()), 1)
    n, c, h, w = images.shape
    kernel = kernel.repeat_interleave(c, 0)
    flat = F.pad(images.reshape(1, n * c, h, w), (3, 3, 3, 3), mode="replicate")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=n * c)
    return F.conv2d(flat, kernel[:, None, None, :], groups=n * c).view(n, c, h, w)


def softened(
    images: Float[Tensor, "n c h w"], generator: torch.Generator, *, share: float = 0.6, sigma: float = 1.4
) -> Float[Tensor, "n c h w"]:
    """Blurs a share of the pictures by up to ``sigma`` pixels, then varies contrast and brightness and adds noise.

    Args:
        images: in [-1, 1].
        generator: draws which and how much.
        share: of pictures that are blurred.
        sigma: the strongest blur, in pixels.

    Returns:
        Pictures in [-1, 1].
    """
    count = len(images)
    u = torch.rand(count, 5, generator=generator).to(images)
    width = torch.where(u[:, 0] < share, u[:, 1] * sigma, 0.0)
    out = blurred(images, width)
    out = out * (0.9 + 0.2 * u[:, 2, None, None, None]) + 0.12 * (u[:, 3, None, None, None] - 0.5)
    noise = torch.randn(out.shape, generator=generator).to(images)
    return (out + noise * (0.08 * u[:, 4, None, None, None] ** 2)).clamp(-1, 1)
