"""Any picture that a stranger gives becomes upright 8-bit RGB, or is refused in a sentence before it costs anything."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from dsd.errors import UserError, cut, reason_of
from dsd.images.arrays import from_array, from_tensor, is_tensor
from dsd.images.colours import plain_rgb
from dsd.limits import MAX_PIXELS

if TYPE_CHECKING:
    from torch import Tensor

ImageSource: TypeAlias = "str | Path | bytes | IO[bytes] | Image.Image | np.ndarray | Tensor"

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
"""What is opened at all, by Pillow's names: the readers of rarer formats fail in ways of their own."""

_GIVE = "give a PNG, JPEG, WebP, GIF, BMP or TIFF file"
_ADDRESS = re.compile(r"(?:https?|ftp|s3|gs|hf|file):/|data:", re.IGNORECASE)
_ORIENTATION = 0x0112
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What Pillow has to say of odd files is for programmers. Not in a block of `catch_warnings`: threads read pictures too.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\b")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def load_image(source: ImageSource, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads any picture as upright 8-bit RGB.

    The EXIF orientation is applied and all other metadata dropped; a sound ICC profile is converted to sRGB and a
    broken one ignored; transparency is laid over white; CMYK, Lab, 16-bit, 32-bit and float samples are converted; of
    an animation the first frame is taken. At most 8 bytes a pixel are held at once, for the file and the result.

    Args:
        source: A path; the bytes of a file; an open binary file; a picture; a numpy array (h, w), (h, w, 1 | 3 | 4) or
            (1, h, w, c), or a torch tensor (1 | 3 | 4, h, w) or (1, c, h, w) as pipelines of diffusers take it: whole
            numbers are uint8, or uint16 of an array, and floats lie in [0, 1].
        max_pixels: Larger pictures are refused.

    Returns:
        A new picture of mode RGB without metadata.

    Raises:
        UserError: No such file or no regular one, empty, not a picture of one of `FORMATS`, damaged, without pixels, or
            more than `max_pixels` of them; an address; an object of another kind, or an array of other shape or values.
    """
    if isinstance(source, Image.Image):
        return _decoded(source, "the picture", max_pixels)
    array: Any = source
    if isinstance(array, np.ndarray) or is_tensor(array):
        _require_pixels(array.shape, max_pixels)
        picture = from_array(array) if isinstance(array, np.ndarray) else from_tensor(array)
        return _decoded(picture, "the picture", max_pixels)
    name, file = _open(source)
    with file, _told(name), Image.open(file, formats=FORMATS) as image:
        return _decoded(image, name, max_pixels)


def _open(source: Any) -> tuple[str, IO[bytes]]:
    """What to call a source in a sentence, and its bytes as an open file."""
    if isinstance(source, (str, Path)):
        return _open_path(str(source))
    if isinstance(source, (bytes, bytearray, memoryview)):
        data: Any = bytes(source)
    elif callable(getattr(source, "read", None)):
        try:
            data = source.read()
        except (OSError, ValueError, TypeError) as error:  # closed, not open for reading, or no file's `read`
            reason = cut(reason_of(error), 200)
            raise UserError(f"the file that was given as a picture cannot be read ({reason}); open it again") from error
    else:
        data = source
    if not isinstance(data, bytes):
        given = "nothing (None)" if source is None else f"a {type(source).__name__}"
        raise UserError(
            f"a picture was expected, but {given} was given; give a path, the bytes of a file or a file opened in "
            "binary, a PIL picture, a numpy array or a torch tensor"
        )
    if not data:
        raise UserError(f"the picture is empty (0 bytes); {_GIVE}")
    return "the picture", io.BytesIO(data)


def _open_path(path: str) -> tuple[str, IO[bytes]]:
    name = f'"{cut(path, 400)}"'
    if _ADDRESS.match(path):
        raise UserError(f"the picture {name} is an address, and nothing is fetched from the network; download it first")
    try:
        opened = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe's writer is not waited for
    except OSError as error:
        raise UserError(f"cannot open the picture {name} ({error.strerror}); give a file that exists") from error
    except ValueError as error:  # a character that no file's name can hold
        raise UserError(f"cannot open the picture {path!r} ({error}); give the name of a file") from error
    found = os.fstat(opened)
    if stat.S_ISREG(found.st_mode) and found.st_size:
        return name, os.fdopen(opened, "rb")
    os.close(opened)
    if stat.S_ISREG(found.st_mode):
        raise UserError(f"{name} is empty (0 bytes); {_GIVE}")
    what = "a folder" if stat.S_ISDIR(found.st_mode) else "a pipe or a device"
    raise UserError(f"cannot open the picture {name} (it is {what}, no regular file); {_GIVE}")


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Tells in a sentence what Pillow stumbles over: on damaged files it may be anything."""
    try:
        yield
    except UserError:
        raise
    except Image.UnidentifiedImageError as error:
        raise UserError(f"{name} is not a picture that can be read; {_GIVE}") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{name} has far too many pixels; scale it down first") from error
    except Exception as error:
        reason = cut(reason_of(error), 200)
        raise UserError(f"{name} cannot be read as a picture, it is damaged ({reason}); {_GIVE}") from error


def _decoded(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    with _told(name):
        _require_size(image.size, name, max_pixels)
        tags = getattr(image, "tag_v2", {})
        tile = (tags.get(_TILE_WIDTH, 0), tags.get(_TILE_LENGTH, 0))
        if all(isinstance(side, int) and side > 0 for side in tile):  # a tile is decoded whole, whatever the size
            _require_size(tile, f"a tile of {name}", max_pixels)
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        rgb = plain_rgb(image)
        return rgb if turn is None else rgb.transpose(turn)


def _require_size(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if not width or not height:
        raise UserError(f"{name} has {width} x {height} pixels; {_GIVE} with at least one pixel")
    if width * height > max_pixels:
        raise UserError(
            f"{name} has {width} x {height} pixels, but at most {_millions(max_pixels)} are read; scale it down first"
        )


def _require_pixels(shape: tuple[int, ...], max_pixels: int) -> None:
    if np.prod(shape, dtype=object) > 4 * max_pixels:
        raise UserError(
            f"an array of shape {tuple(shape)} was given as a picture, "
            f"but at most {_millions(max_pixels)} pixels are read; scale it down first"
        )


def _millions(pixels: int) -> str:
    return f"{pixels / 1_000_000:g} million" if pixels >= 100_000 else f"{pixels:,}"


def _orientation(image: Image.Image) -> Any:
    """The EXIF orientation; None where there is none, or EXIF that cannot be read."""
    try:
        found = image.getexif().get(_ORIENTATION)
    except (
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        OSError,
        OverflowError,
        EOFError,
        struct.error,
    ):
        return None
    return found if isinstance(found, int) else None
