"""A picture of any proportions in a frame of given ones: what is lost, added or distorted is the caller's choice."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from PIL import Image, ImageOps

from dsd.config import did_you_mean
from dsd.errors import UserError

Fit: TypeAlias = Literal["crop", "pad", "stretch"]
FITS: tuple[Fit, ...] = get_args(Fit)

_LANCZOS = Image.Resampling.LANCZOS


def fit(image: Image.Image, size: tuple[int, int], how: Fit = "crop") -> tuple[Image.Image, str]:
    """Brings a picture to a size.

    Args:
        image: RGB.
        size: (height, width) in pixels.
        how: "crop" cuts off what is too long on both sides of its centre, "pad" adds white at what is too short (as
            transparency is laid over white), and "stretch" changes the proportions.

    Returns:
        The picture, and what was done in a few words, such as "cropped from 640x480 to 480x480" (width x
        height); "" for nothing.

    Raises:
        UserError: Another way, or a size without pixels.
    """
    height, width = size
    given = image
    if how not in FITS:
        raise UserError(f'a picture cannot be made to fit by "{how}"; {did_you_mean(str(how), FITS)}')
    if height < 1 or width < 1:
        raise UserError(f"a picture cannot be made to fit {height}x{width} pixels (height x width); give at least 1x1")
    if how == "crop":
        result = ImageOps.fit(image, (width, height), _LANCZOS)
    elif how == "pad":
        share = min(width / image.width, height / image.height)
        if min(round(share * image.width), round(share * image.height)) < 1:  # so long that its width would vanish
            image = image.resize((max(1, round(share * image.width)), max(1, round(share * image.height))), _LANCZOS)
        result = ImageOps.pad(image, (width, height), _LANCZOS, color="white")
    else:
        result = image.resize((width, height), _LANCZOS)
    return result, _words(given, width, height, how)


def _words(image: Image.Image, width: int, height: int, how: Fit) -> str:
    before, after = f"{image.width}x{image.height}", f"{width}x{height}"
    if before == after:
        return ""
    if image.width * height == image.height * width:
        return f"resized from {before} to {after}"
    done = {"crop": "cropped", "pad": "padded with white", "stretch": "stretched"}[how]
    return f"{done} from {before} to {after}"
