"""Pictures in, few at a time and none too large, and pictures out in the format that was asked for."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import IO

import anyio
import anyio.to_thread
from PIL import Image

from dsd.errors import UserError
from dsd.images import encode, load_image
from dsd.serve.errors import refused
from dsd.serve.fields import Generation, Variation
from dsd.serve.settings import Limits

AT_ONCE = 1
"""Pictures that are decoded at once: a decoded picture may be a thousand times its file."""
KEPT_TIMES = 3
"""A reference that waits is scaled down until its shorter side has so many times the pixels of what is drawn."""
_LONGEST = 16
"""Of a long strip, so many squares of the shorter side are kept at that size."""


class Decoder:
    """Decodes pictures beside the event loop, one after the other."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._limiter: anyio.CapacityLimiter | None = None

    async def decode(self, files: Sequence[IO[bytes]], most_pixels: int, as_is: bool) -> tuple[Image.Image, ...]:
        """The references in files.

        Args:
            files: Of any picture format that `dsd.images.load_image` reads.
            most_pixels: That will be drawn.
            as_is: Whether a reference says what will be drawn; it is then scaled down to that many pixels.

        Raises:
            ApiError: A file is no picture, or one of too many pixels.
        """
        self._limiter = self._limiter or anyio.CapacityLimiter(AT_ONCE)
        run = anyio.to_thread.run_sync
        return tuple([await run(self._one, file, most_pixels, as_is, limiter=self._limiter) for file in files])

    def _one(self, file: IO[bytes], most_pixels: int, as_is: bool) -> Image.Image:
        try:
            image = load_image(file, max_pixels=self._limits.picture_pixels)
        except UserError as error:
            raise refused("image", str(error), "invalid_image") from error
        pixels, kept = image.width * image.height, KEPT_TIMES * most_pixels**0.5
        scale = (
            (most_pixels / pixels) ** 0.5 if as_is else min(kept / min(image.size), _LONGEST**0.5 * kept / pixels**0.5)
        )
        if scale >= 1:
            return image
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        return image.resize(size, Image.Resampling.LANCZOS)


def encoded(image: Image.Image, fields: Variation, said: Mapping[str, str] | None) -> str:
    """The picture as base64 of a file.

    Args:
        image: RGB.
        fields: Say format and compression.
        said: What the file shall say of the picture (model, prompt, seed, ...); None for nothing.

    Raises:
        UserError: The format cannot say so much.
    """
    if not isinstance(fields, Generation):
        data = encode(image, "png", said)
    elif fields.output_compression is None:
        data = encode(image, fields.output_format, said)
    else:
        data = encode(image, fields.output_format, said, quality=fields.output_compression)
    return base64.b64encode(data).decode()


def require_format(fields: Generation) -> None:
    """Refuses a compression of what is not compressed by it.

    Raises:
        ApiError: 400.
    """
    if fields.output_compression is not None and fields.output_format == "png":
        raise refused("output_compression", 'output_compression goes with output_format "jpeg" or "webp", not "png"')
