"""Pictures as the bytes of files, with what they were made from inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Literal, TypeAlias, get_args

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsd.config import did_you_mean
from dsd.errors import UserError

Format: TypeAlias = Literal["png", "jpeg", "webp"]
FORMATS: tuple[Format, ...] = get_args(Format)

_LONGEST = {"jpeg": 65_500, "webp": 16_383}
"""Pixels of a side that the libraries write."""
_EXIF_IFD, _USER_COMMENT = 0x8769, 0x9286
_MOST_EXIF = 60_000
"""Bytes of a comment; a JPEG's EXIF ends at 64 KiB."""


def encode_png(image: Image.Image) -> bytes:
    """Returns the bytes of a PNG file without metadata; equal pictures give equal bytes."""
    return encode(image, "png")


def encode(
    image: Image.Image, format: Format = "png", metadata: Mapping[str, str] | None = None, *, quality: int = 95
) -> bytes:
    """Returns the bytes of a file.

    Args:
        image: RGB.
        format: PNG keeps all pixels; JPEG and WebP are lossy.
        metadata: Texts by keyword (1 to 79 Latin letters), such as model, prompt and seed: text chunks of a PNG (tEXt,
            or iTXt where the text is not Latin-1), the EXIF user comment of the others, as one JSON object.
        quality: of JPEG and WebP, from 0 to 100.

    Raises:
        UserError: Another format, a keyword that PNG does not take, more text than EXIF holds, or a picture that is too
            large for the format.
    """
    if format not in FORMATS:
        raise UserError(f'pictures cannot be written as "{format}"; {did_you_mean(str(format), FORMATS)}')
    buffer = io.BytesIO()
    if format == "png":
        image.save(buffer, format="PNG", pnginfo=_chunks(metadata) if metadata else None)
    else:
        more = {"exif": _comment(metadata)} if metadata else {}
        more |= {"subsampling": 0} if format == "jpeg" else {}
        most = _LONGEST[format]
        if max(image.size) > most:
            raise UserError(
                f"a picture of {image.width}x{image.height} pixels cannot be written as {format}, whose sides have at "
                f"most {most:,}; write PNG"
            )
        image.save(buffer, format=format.upper(), quality=quality, **more)
    return buffer.getvalue()


def _chunks(metadata: Mapping[str, str]) -> PngInfo:
    chunks = PngInfo()
    for key, text in metadata.items():
        if not (1 <= len(key) <= 79 and key.isascii() and key.isprintable()):
            raise UserError(f'"{key}" cannot be a keyword in a PNG file; give 1 to 79 Latin letters')
        text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
        chunks.add_text(key, text) if _is_latin(text) else chunks.add_itxt(key, _unicode(text))
    return chunks


def _is_latin(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _unicode(text: str) -> str:
    """The text without halves of surrogate pairs, which UTF-8 cannot say."""
    return text.encode("utf-8", "replace").decode()


def _comment(metadata: Mapping[str, str]) -> bytes:
    text = json.dumps(dict(metadata)).encode("ascii")
    if len(text) > _MOST_EXIF:
        raise UserError(
            f"the metadata of a picture has {len(text):,} bytes, but a JPEG or WebP file takes {_MOST_EXIF:,}; shorten "
            "the prompt, write PNG, or leave the metadata out"
        )
    exif = Image.Exif()
    exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = b"ASCII\0\0\0" + text
    return exif.tobytes()
