"""Pictures in, few at a time and none too large, and pictures out in the format that was asked for."""

from __future__ import annotations

import base64
import io
import json
import warnings
from collections.abc import Sequence
from typing import IO, Any

import anyio
import anyio.to_thread
from PIL import Image, PngImagePlugin

from dsd.images import load_image
from dsd.serve.errors import refused
from dsd.serve.fields import Generation, Variation
from dsd.serve.settings import Limits

AT_ONCE = 1
"""Pictures that are decoded at once: a decoded picture may be a thousand times its file."""
KEPT_TIMES = 3
"""A reference that waits is scaled down until its shorter side has so many times the pixels of what is drawn."""
_LONGEST = 16
"""Of a long strip, so many squares of the shorter side are kept at that size."""
_DESCRIPTION = 0x010E  # EXIF's ImageDescription


class Decoder:
    """Decodes pictures beside the event loop, one after the other."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._limiter: anyio.CapacityLimiter | None = None

    async def decode(self, files: Sequence[IO[bytes]], size: tuple[int, int]) -> tuple[Image.Image, ...]:
        """The references in files.

        Args:
            files: Of any picture format that `dsd.images.load_image` reads.
            size: (height, width) that will be drawn, in pixels.

        Raises:
            UserError: A file is no picture, or one of too many pixels.
        """
        self._limiter = self._limiter or anyio.CapacityLimiter(AT_ONCE)
        most = KEPT_TIMES * max(size)
        return tuple([await anyio.to_thread.run_sync(self._one, file, most, limiter=self._limiter) for file in files])

    def _one(self, file: IO[bytes], most: int) -> Image.Image:
        require_pixels(file, self._limits.picture_pixels)
        image = load_image(file)
        scale = min(most / min(image.size), (_LONGEST * most**2 / (image.width * image.height)) ** 0.5)
        if scale >= 1:
            return image
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)


def require_pixels(file: IO[bytes], most: int) -> None:
    """Refuses a picture of too many pixels by its header; what is no picture is left to whoever decodes it.

    Raises:
        ApiError: 400.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            width, height = Image.open(file).size
    except (ValueError, SyntaxError, OSError, Image.DecompressionBombError):
        return
    finally:
        file.seek(0)
    if width * height > most:
        raise refused(
            "image",
            f"the picture has {width * height / 1e6:.3g} million pixels, but at most {most / 1e6:g} million are read; "
            "scale it down first",
        )


def encode(image: Image.Image, fields: Variation, said: dict[str, Any] | None) -> str:
    """The picture as base64 of a file.

    Args:
        image: RGB.
        fields: Say format and compression.
        said: What the file shall say of the picture (model, prompt, seed, ...); None for nothing.
    """
    buffer = io.BytesIO()
    image_format = fields.output_format if isinstance(fields, Generation) else "png"
    if image_format == "png":
        image.save(buffer, format="PNG", pnginfo=_png_text(said))
    else:
        compression = fields.output_compression if isinstance(fields, Generation) else None
        exif = Image.Exif()
        if said is not None:
            exif[_DESCRIPTION] = json.dumps(said)
        quality = 100 if compression is None else compression
        image.save(buffer, format=image_format.upper(), quality=quality, exif=exif)
    return base64.b64encode(buffer.getvalue()).decode()


def require_format(fields: Generation) -> None:
    """Refuses a compression of what is not compressed by it.

    Raises:
        ApiError: 400.
    """
    if fields.output_compression is not None and fields.output_format == "png":
        raise refused("output_compression", 'output_compression goes with output_format "jpeg" or "webp", not "png"')


def _png_text(said: dict[str, Any] | None) -> PngImagePlugin.PngInfo | None:
    if said is None:
        return None
    info = PngImagePlugin.PngInfo()
    for name, value in said.items():
        info.add_itxt(name, str(value))
    return info
