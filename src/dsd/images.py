"""Pictures in and out: any file a person may give becomes plain RGB, tensors become pictures again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dsd.errors import UserError, cut

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image"

Fit: TypeAlias = Literal["crop", "pad", "stretch"]

MAX_PIXELS = 64_000_000
"""Larger pictures are refused by their header, before a pixel is decoded."""


def load_image(source: ImageSource) -> Image.Image:
    """Reads any picture as upright 8-bit RGB.

    EXIF rotation is applied, transparency is laid over white, CMYK and 16-bit samples are converted, and of an
    animation the first frame is taken.

    Args:
        source: A path, the bytes of a file, an open binary file, or a picture.

    Returns:
        A new picture of mode RGB.

    Raises:
        UserError: Missing, empty, not a picture, damaged, or more than `MAX_PIXELS` pixels.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    name, file = _open(source)
    with file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                image = Image.open(file)
        except Image.UnidentifiedImageError as error:
            raise UserError(f"{name} is not a picture that can be read; give a PNG, JPEG or WebP file") from error
        except Image.DecompressionBombError as error:
            raise UserError(
                f"{name} has far too many pixels, "
                f"but at most {MAX_PIXELS // 1_000_000} million are read; scale it down first"
            ) from error
        except (ValueError, SyntaxError, OSError) as error:
            raise UserError(f"{name} cannot be read as a picture ({error}); give a PNG, JPEG or WebP file") from error
        with image:
            return _to_rgb(image, name)


def fit(image: Image.Image, size: tuple[int, int], how: Fit = "crop") -> tuple[Image.Image, str]:
    """A picture at a size in pixels (height, width), and what was done to it in words ("" for nothing)."""
    return ImageOps.fit(image, (size[1], size[0]), Image.Resampling.LANCZOS), ""


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


def encode_png(image: Image.Image) -> bytes:
    """Returns the bytes of a PNG file; equal pictures give equal bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[str] | None = None,
    row_labels: Sequence[str] | None = None,
    scale: int = 2,
) -> Image.Image:
    """Lays pictures out in a table, each enlarged without smoothing so that pixels stay visible.

    Args:
        rows: Pictures; rows may differ in length, and every cell takes the size of the largest picture.
        labels: One a column, above.
        row_labels: One a row, at the left.
        scale: Whole enlargement factor, at least 1.

    Returns:
        One RGB picture on white.

    Raises:
        UserError: There is no picture in `rows`.
    """
    cells = [image for row in rows for image in row]
    if not cells:
        raise UserError("a contact sheet needs at least one picture")
    gap, font = 4, ImageFont.load_default(size=12)
    width = scale * max(image.width for image in cells)
    height = scale * max(image.height for image in cells)
    left = max((int(font.getlength(label)) + 2 * gap for label in row_labels or ()), default=0)
    top = 18 if labels else 0
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (left + gap + columns * (width + gap), top + gap + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels or ()):
        draw.text((left + gap + column * (width + gap), 3), _fit(label, width, font), fill="black", font=font)
    for index, row in enumerate(rows):
        y = top + gap + index * (height + gap)
        if row_labels and index < len(row_labels):
            draw.text((gap, y + height // 2 - 7), row_labels[index], fill="black", font=font)
        for column, image in enumerate(row):
            enlarged = image.convert("RGB").resize(
                (image.width * scale, image.height * scale), Image.Resampling.NEAREST
            )
            sheet.paste(enlarged, (left + gap + column * (width + gap), y))
    return sheet


def _open(source: str | Path | bytes | IO[bytes]) -> tuple[str, IO[bytes]]:
    if isinstance(source, (str, Path)):
        name, path = f'"{cut(str(source), 400)}"', Path(source)
        try:
            data: bytes | None = None if path.stat().st_size else b""
            file: IO[bytes] = path.open("rb")
        except OSError as error:
            raise UserError(f"cannot open the picture {name} ({error.strerror}); give a file that exists") from error
        except ValueError as error:  # a character that no file's name can hold
            raise UserError(f"cannot open the picture {str(source)!r} ({error}); give the name of a file") from error
        if data is not None:
            file.close()
    else:
        name = "the picture"
        data = source if isinstance(source, bytes) else source.read()
        file = io.BytesIO(data)
    if data == b"":
        raise UserError(f"{name} is empty (0 bytes); give a PNG, JPEG or WebP file")
    return name, file


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"{name} has {image.width} x {image.height} pixels, "
            f"but at most {MAX_PIXELS // 1_000_000} million are read; scale it down first"
        )
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        image = _to_8_bit(image)
        if image.has_transparency_data:
            layer = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    except (OSError, ValueError, SyntaxError, MemoryError) as error:
        raise UserError(f"{name} is damaged ({error}); give a whole PNG, JPEG or WebP file") from error


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Scales 16-bit and float grey; `Image.convert` would clip them to white."""
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image
    values = np.asarray(image, dtype=np.float64)
    scale = (
        1.0 if image.mode == "F" and values.max(initial=0.0) > 1.0 else 255.0 if image.mode == "F" else 255.0 / 65535.0
    )
    return Image.fromarray(np.clip(np.nan_to_num(values) * scale, 0, 255).round().astype(np.uint8))


def _fit(label: str, width: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(label) <= width:
        return label
    while label and font.getlength(label + "…") > width:
        label = label[:-1]
    return label + "…"
