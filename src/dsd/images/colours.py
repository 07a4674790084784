"""From any mode of Pillow to 8-bit sRGB over white, band by band, so that nothing is held twice but the result."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageCms

_BAND = 1 << 20
"""Pixels that are converted at once."""
_NEAR = 2
"""How far a profile may move an 8-bit value and still count as sRGB, which is left as it is."""
_DEVICES = {"mntr", "scnr", "prtr", "spac"}
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_UNSIGNED, _WHITE_IS_ZERO = 1, 0

Convert = Callable[[Image.Image], Image.Image]


def plain_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as a new one of mode RGB without metadata.

    Args:
        image: Any; its ICC profile and transparency are those of `Image.info`.
    """
    deep = _deep_grey(image) if image.mode.startswith("I") or image.mode == "F" else None
    _mend_transparency(image)
    profile = _profile_of(image, "L" if deep else image.mode)
    result = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows)))
        result.paste(_over_white(deep(band) if deep else band, profile), (0, top))
    return result


def _over_white(band: Image.Image, profile: Convert | None) -> Image.Image:
    if not band.has_transparency_data:
        return _to_rgb(band, profile)
    if band.mode in ("La", "RGBa"):  # premultiplied
        band = band.convert({"La": "LA", "RGBa": "RGBA"}[band.mode])
    layer = band if band.mode in ("LA", "RGBA") else band.convert("RGBA")
    if profile is not None:
        colours = _to_rgb(layer.convert("L" if band.mode == "LA" else "RGB"), profile)
        colours.putalpha(layer.getchannel("A"))
        layer = colours
    layer = layer.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _to_rgb(band: Image.Image, profile: Convert | None) -> Image.Image:
    if profile is not None:
        return profile(band.convert("RGB") if band.mode in ("P", "RGBX") else band)
    if band.mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        return _applied(lab, band)
    return band.convert("RGB")


def _profile_of(image: Image.Image, mode: str) -> Convert | None:
    """What turns colours by the picture's profile to sRGB; None for none, one that does not fit or hardly changes."""
    content = image.info.get("icc_profile")
    base = {"RGBA": "RGB", "RGBX": "RGB", "P": "RGB", "PA": "RGB", "RGBa": "RGB", "LA": "L", "La": "L"}.get(mode, mode)
    if not isinstance(content, bytes) or base not in _SPACES:
        return None
    try:
        profile: Any = ImageCms.ImageCmsProfile(io.BytesIO(content))
        if profile.profile.xcolor_space != _SPACES[base] or profile.profile.device_class not in _DEVICES:
            return None
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), base, "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )  # fmt: skip
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        return None
    probe = _probe(base)
    change = np.asarray(_applied(transform, probe), dtype=int) - np.asarray(probe.convert("RGB"), dtype=int)
    if base != "CMYK" and np.abs(change).max() <= _NEAR:
        return None
    return lambda band: _applied(transform, band)


def _applied(transform: Any, band: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(band, transform)
    assert converted is not None
    return converted


def _probe(mode: str) -> Image.Image:
    """Colours from all over a space."""
    steps = np.linspace(0, 255, 9).round().astype(np.uint8)
    channels = len(Image.new(mode, (1, 1)).getbands())
    grid = np.stack(np.meshgrid(*[steps] * channels), axis=-1).reshape(1, -1, channels)
    return Image.frombytes(mode, (grid.shape[1], 1), grid.tobytes())


def _mend_transparency(image: Image.Image) -> None:
    """A PNG of 16-bit colours names the transparent one in 16 bits; Pillow keeps the upper 8 of each sample."""
    key = image.info.get("transparency")
    if image.mode == "RGB" and isinstance(key, tuple) and any(value > 255 for value in key):
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _deep_grey(image: Image.Image) -> Convert:
    """What scales 16-bit, 32-bit and float grey to 8 bits, which `Image.convert` would clip to white.

    Of integers of 16 bits (or 12, as TIFF files say) white is the largest; of those of 32 bits and of floats it is the
    least of the usual whites that no value exceeds, since few files say it.
    """
    tags = getattr(image, "tag_v2", {})
    unsigned = image.mode == "I" and tags.get(_SAMPLE_FORMAT, (2,))[0] == _UNSIGNED and tags.get(_BITS) == (32,)
    white = _white(image, tags, unsigned)
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    clear = image.info.get("transparency")

    def convert(band: Image.Image) -> Image.Image:
        values = _values(band, unsigned)
        shares = np.clip(np.nan_to_num(values / white, nan=0.0), 0, 1)
        grey = Image.fromarray(((1 - shares if inverted else shares) * 255).round().astype(np.uint8))
        if isinstance(clear, int):
            grey.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
        return grey

    return convert


def _white(image: Image.Image, tags: Any, unsigned: bool) -> float:
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS, (16,))[0]
        return float(2 ** (bits if bits in (10, 12, 14) else 16) - 1)
    rows = max(1, _BAND // image.width)
    bands = (image.crop((0, top, image.width, min(image.height, top + rows))) for top in range(0, image.height, rows))
    highest = max(_highest(_values(band, unsigned)) for band in bands)
    if image.mode == "F":
        whites = [1.0, 255.0, 65535.0]
    else:
        whites = [255.0, 32767.0 if tags.get(_BITS) == (16,) else 65535.0, 2.0**31 - 1, 2.0**32 - 1]
    return next((white for white in whites if highest <= white), highest)


def _values(band: Image.Image, unsigned: bool) -> np.ndarray:
    values = np.asarray(band)
    return (values.view(np.uint32) if unsigned else values).astype(np.float64)


def _highest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else 0.0
