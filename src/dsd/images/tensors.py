"""Pictures as tensors in [-1, 1], as models see them, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dsd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def to_tensor(images: Image.Image | Sequence[Image.Image], size: tuple[int, int] | None = None) -> Tensor:
    """Stacks pictures into one batch.

    Args:
        images: One picture or several; without `size` they must agree in size.
        size: (height, width) to resize to, in pixels.

    Returns:
        Float tensor (b, 3, h, w) in [-1, 1].

    Raises:
        UserError: No picture, or pictures of several sizes without `size`.
    """
    import torch

    images = [images] if isinstance(images, Image.Image) else list(images)
    if not images:
        raise UserError("an empty list of pictures was given; give at least one")
    if size is not None:
        height, width = size
        images = [image.resize((width, height), Image.Resampling.LANCZOS) for image in images]
    if len({image.size for image in images}) > 1:
        raise UserError("pictures of several sizes cannot be one batch; give a size to resize them to")
    array = np.stack([np.asarray(image.convert("RGB"), dtype=np.float32) for image in images])
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


def to_pil(tensor: Tensor) -> list[Image.Image]:
    """Turns a batch (b, 3, h, w), or one picture (3, h, w), in [-1, 1] into pictures; values outside are clipped."""
    batch = tensor.detach() if tensor.ndim == 4 else tensor.detach()[None]
    array = ((batch.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(np.ascontiguousarray(picture)) for picture in array]
