"""Pictures inside a page: as data URLs, so that the page is one file."""

from __future__ import annotations

import base64

from PIL import Image

from dsd.images.writing import encode, encode_png

_QUALITY = 90


def data_url(image: Image.Image, most: int | None = None) -> str:
    """A picture as a data URL.

    Args:
        image: RGB.
        most: height and width in pixels; a larger picture is scaled down to them and sent as WebP, others as PNG.
    """
    if most is None or max(image.size) <= most:
        kind, content = "png", encode_png(image)
    else:
        small = image.copy()
        small.thumbnail((most, most), Image.Resampling.LANCZOS)
        kind, content = "webp", encode(small, "webp", quality=_QUALITY)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
