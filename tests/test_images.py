from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dsd.errors import UserError
from dsd.images import contact_sheet, encode_png, load_image, to_pil, to_tensor


def _bytes(image: Image.Image, format: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def _png_header_only(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_kind_of_source_gives_the_same_picture(tmp_path):
    image = Image.effect_noise((9, 5), 80).convert("RGB")
    path = tmp_path / "x.png"
    image.save(path)
    data = path.read_bytes()
    for source in (path, str(path), data, io.BytesIO(data), image):
        loaded = load_image(source)
        assert loaded.mode == "RGB" and loaded.tobytes() == image.tobytes()


def test_exif_rotation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (8, 4), "red")
    assert load_image(_bytes(image, "JPEG", exif=exif)).size == (4, 8)


def test_cmyk_becomes_the_colour_it_shows():
    red, green, blue = load_image(_bytes(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)).getpixel(
        (4, 4)
    )
    assert red > 240 and green < 15 and blue < 15


def test_sixteen_bits_are_scaled_and_not_clipped():
    image = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert load_image(_bytes(image)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.putpixel((0, 0), (0, 0, 0, 255))
    loaded = load_image(image.convert(mode))
    assert loaded.getpixel((1, 1)) == (255, 255, 255) and loaded.getpixel((0, 0)) == (0, 0, 0)


def test_a_palette_with_transparency_lies_over_white():
    image = Image.new("P", (4, 4), 0)
    image.putpalette([255, 0, 0] + [0] * 765)
    assert load_image(_bytes(image, transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "F", "I"])
def test_grey_pictures_become_rgb(mode):
    assert load_image(Image.new("L", (4, 4), 255).convert(mode)).mode == "RGB"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"GIF89a", "cannot be read|not a picture|damaged"),
        (b"just words", "not a picture"),
        (_bytes(Image.effect_noise((64, 64), 50))[:500], "damaged"),
        (_png_header_only(100_000, 100_000), "far too many pixels.*scale it down"),
        (_png_header_only(9_000, 8_000), "9000 x 8000"),
    ],
)
def test_bad_pictures_are_told_in_one_sentence(tmp_path, data, words):
    path = tmp_path / "x.png"
    path.write_bytes(data)
    for source in (path, data):
        with pytest.raises(UserError, match=words) as error:
            load_image(source)
        assert "\n" not in str(error.value)


def test_a_missing_picture_and_a_folder_are_told(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(UserError, match="cannot open"):
            load_image(path)


@given(st.integers(0, 255), st.integers(1, 7), st.integers(1, 7))
def test_tensors_and_pictures_round_trip(value, height, width):
    image = Image.new("RGB", (width, height), (value, 255 - value, value // 2))
    tensor = to_tensor([image, image])
    assert tensor.shape == (2, 3, height, width) and tensor.min() >= -1 and tensor.max() <= 1
    assert [back.tobytes() for back in to_pil(tensor)] == [image.tobytes()] * 2


def test_size_is_height_and_width():
    assert to_tensor(Image.new("RGB", (10, 10)), size=(4, 8)).shape == (1, 3, 4, 8)


def test_values_outside_are_clipped():
    assert to_pil(torch.tensor([5.0, -5.0, 0.0]).reshape(3, 1, 1))[0].getpixel((0, 0)) == (255, 0, 128)


def test_pictures_of_several_sizes_need_a_size():
    with pytest.raises(UserError, match="several sizes"):
        to_tensor([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))])


def test_png_bytes_depend_on_the_picture_alone():
    image = Image.effect_noise((9, 9), 50).convert("RGB")
    assert encode_png(image) == encode_png(image.copy())


def test_a_contact_sheet_keeps_pixels_sharp_and_makes_room_for_words():
    pictures = [[Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")], [Image.new("RGB", (8, 8), "red")]]
    bare = contact_sheet(pictures, scale=3)
    assert bare.size == (4 + 2 * 28, 4 + 2 * 28)
    assert {colour for _, colour in bare.getcolors() or []} == {(255, 0, 0), (0, 0, 255), (255, 255, 255)}
    labelled = contact_sheet(pictures, ["one", "a very long label"], ["row", "other"], scale=3)
    assert labelled.width > bare.width and labelled.height > bare.height
