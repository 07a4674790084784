"""Pictures that strangers give: of any kind, bombs, damaged ones, and what is no picture at all."""

from __future__ import annotations

import io
import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from dsd.errors import UserError
from dsd.images import encode, encode_png, fit, load_image


def file_of(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(width: int = 24, height: int = 16, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def flat_png(side: int, colour_type: int = 2, depth: int = 8) -> bytes:
    """A PNG of one colour that is a thousandth of its pixels."""
    samples = {0: 1, 2: 3, 6: 4}[colour_type] * depth // 8
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + side * samples)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


PEAK = """
import resource, sys
from dsd.images import load_image
from dsd.errors import UserError
load_image({small!r})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    load_image(sys.argv[1], max_pixels=int(sys.argv[2]))
except UserError as error:
    print(error, file=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def peak_of(path: Path, max_pixels: int, small: Path) -> tuple[int, str]:
    """Bytes that reading a picture costs in a process of its own, and what it was told."""
    command = [sys.executable, "-c", PEAK.format(small=str(small)), str(path), str(max_pixels)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout) * 1024, done.stderr


def test_a_bomb_is_refused_by_its_header_and_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(file_of(noise()))
    (tmp_path / "bomb.png").write_bytes(flat_png(8000, colour_type=0, depth=8))
    cost, told = peak_of(tmp_path / "bomb.png", 40_000_000, tmp_path / "small.png")
    assert "8000 x 8000 pixels, but at most 40 million are read; scale it down first" in told
    assert cost < 4e6


@pytest.mark.parametrize(("colour_type", "depth"), [(2, 8), (6, 8), (0, 16)], ids=["RGB", "RGBA", "16 bits"])
def test_what_is_read_costs_few_bytes_a_pixel(colour_type: int, depth: int, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(flat_png(8, colour_type, depth))
    (tmp_path / "large.png").write_bytes(flat_png(4000, colour_type, depth))
    cost, told = peak_of(tmp_path / "large.png", 16_000_000, tmp_path / "small.png")
    assert not told and cost / 16e6 < 12  # 8, and what a band of a million pixels needs


def test_how_many_pixels_are_read_is_the_caller_s_choice() -> None:
    data = file_of(Image.new("RGB", (100, 100)))
    assert load_image(data, max_pixels=10_000).size == (100, 100)
    for source in (data, Image.new("RGB", (100, 100)), np.zeros((100, 100, 3), np.uint8), torch.zeros(3, 100, 100)):
        with pytest.raises(UserError, match="100 x 100 pixels, but at most 9,999 are read"):
            load_image(source, max_pixels=9_999)


def test_a_tile_larger_than_its_picture_is_refused() -> None:
    numbers = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 277: 1, 322: 30_000, 323: 30_000, 324: 8, 325: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in numbers.items())
    data = b"II*\0\x0c\0\0\0" + b"\0" * 4 + struct.pack("<H", len(numbers)) + entries + b"\0" * 4
    with pytest.raises(UserError, match="a tile of the picture has 30000 x 30000"):
        load_image(data)


@pytest.mark.parametrize("packed", [b"iTXt", b"zTXt", b"iCCP"])
def test_a_bomb_in_a_text_chunk_is_refused(packed: bytes) -> None:
    text = zlib.compress(b"a" * 200_000_000, 9)
    before = {b"iTXt": b"k\0\1\0\0\0", b"zTXt": b"k\0\0", b"iCCP": b"k\0\0"}[packed]
    whole = file_of(noise())
    with pytest.raises(UserError, match="cannot be read as a picture"):
        load_image(whole[:33] + chunk(packed, before + text) + whole[33:])


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_usual_format_is_read(format: str) -> None:
    image = Image.new("RGB", (9, 5), (200, 30, 30))
    near = np.abs(np.asarray(load_image(file_of(image, format)), int) - np.asarray(image, int)).max()
    assert near <= (0 if format in ("PNG", "BMP", "TIFF", "GIF") else 4)


@pytest.mark.parametrize("format", ["AVIF", "PPM", "ICO", "TGA", "JPEG2000", "PDF", "DDS", "EPS", "PCX", "SGI"])
def test_rare_formats_are_refused_by_name_of_the_usual_ones(format: str) -> None:
    with pytest.raises(UserError, match="give a PNG, JPEG, WebP, GIF, BMP or TIFF file"):
        load_image(file_of(noise(), format))


def test_a_pipe_a_device_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), "/dev/null", tmp_path):
        with pytest.raises(UserError, match=r"cannot open the picture .*no regular file"):
            load_image(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, r"nothing \(None\) was given"),
        (3, "a int was given"),
        pytest.param([Image.new("RGB", (4, 4))], "a list was given", id="list"),
        ({"image": 1}, "a dict was given"),
        pytest.param(io.StringIO("text"), "a str was given|a StringIO was given", id="text file"),
        ("http://example.com/cat.png", "download it first"),
        (Path("https://example.com/cat.png"), "download it first"),
        ("s3://bucket/cat.png", "download it first"),
        ("data:image/png;base64,AAAA", "is an address"),
        ("a\0b.png", "cannot open the picture"),
        ("a\udc80.png", "cannot open the picture"),
        ("x" * 5000, "cannot open the picture"),
        ("", "cannot open the picture"),
        pytest.param(Image.new("RGB", (0, 4)), "0 x 4 pixels", id="no pixels"),
    ],
    ids=str,
)
def test_what_is_no_picture_is_told_by_what_it_is(source: Any, words: str) -> None:
    with pytest.raises(UserError, match=words) as told:
        load_image(source)
    assert "\n" not in str(told.value)


def test_arrays_and_tensors_are_pictures() -> None:
    image = noise()
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    unit = tensor.float() / 255
    sources = [
        array, array / 255, array[None], (array / 255).astype(np.float32), array[:, ::-1][:, ::-1],
        array.astype(np.uint16) * 257,
        tensor, unit, unit[None], unit.requires_grad_(),
    ]  # fmt: skip
    for source in sources:
        assert load_image(source).tobytes() == image.tobytes()
    grey = noise(mode="L")
    for source in (np.asarray(grey), np.asarray(grey)[..., None], torch.from_numpy(np.asarray(grey).copy())[None]):
        assert load_image(source).tobytes() == grey.convert("RGB").tobytes()
    assert np.abs(np.asarray(load_image(unit.bfloat16()), int) - np.asarray(image, int)).max() <= 1
    assert load_image(np.zeros((4, 4, 4), np.uint8)).getpixel((0, 0)) == (255, 255, 255), "transparent"
    assert load_image(np.ones((2, 2), bool)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (np.zeros((4, 4, 3)) - 1, "values from -1 to -1, but floats must be in"),
        (np.full((4, 4, 3), np.nan), "values from nan"),
        (np.full((4, 4, 3), 200.0), "values from 200 to 200"),
        (np.zeros((4, 4, 3), int), "holds int64, but must hold uint8"),
        (np.zeros((3, 4, 5)), r"shape \(3, 4, 5\)"),
        (np.zeros((2, 4, 4, 3)), "one by one"),
        (np.zeros(4), r"shape \(4,\)"),
        (np.zeros((0, 4, 3)), "give at least one pixel"),
        (np.array([["a"]]), "holds <U1"),
        (torch.zeros(5, 4, 3), r"must be \(3, h, w\)"),
        (torch.zeros(2, 3, 4, 4), "one by one"),
        (torch.zeros(3, 0, 4), "give at least one pixel"),
        (torch.full((3, 4, 4), -0.5), "values from -0.5"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "holds complex64"),
    ],
)
def test_arrays_that_are_no_pictures_are_told(source: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_image(source)


def odd_exif(orientation: int) -> bytes:
    """EXIF of an orientation and of a resolution that is a signed rational -1/0, where an unsigned one belongs."""
    entries = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHII", 0x011A, 10, 1, 38)
    return (
        b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + entries + struct.pack("<I", 0) + struct.pack("<ii", -1, 0)
    )


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_picture_is_turned_by_its_orientation_once(orientation: int, format: str) -> None:
    upright = Image.new("RGB", (32, 16), "white")
    upright.paste("red", (0, 0, 16, 8))
    method = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = upright if method is None else upright.transpose(Image.Transpose(method))
    exif = Image.Exif()
    exif[0x0112] = orientation
    loaded = load_image(load_image(file_of(stored, format, exif=exif)))
    assert loaded.size == upright.size and type(loaded) is Image.Image and not loaded.info
    assert np.abs(np.asarray(loaded, int) - np.asarray(upright, int)).mean() < 4


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_an_odd_tag_beside_the_orientation_does_no_harm(format: str) -> None:
    assert load_image(file_of(Image.new("RGB", (8, 4)), format, exif=odd_exif(6))).size == (4, 8)
    assert load_image(file_of(Image.new("RGB", (8, 4)), format, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")).size == (8, 4)


def swapped_profile() -> bytes:
    """sRGB in which red and blue have changed places."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for at in range(132, 132 + 12 * struct.unpack(">I", data[128:132])[0], 12):
        name = bytes(data[at : at + 4])
        data[at : at + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return bytes(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_of_another_profile_are_converted(format: str, mode: str) -> None:
    if (format, mode) == ("JPEG", "RGBA"):
        return
    image = Image.new(mode, (16, 16), (230, 20, 20, 255)[: len(mode)])
    red, green, blue = load_image(file_of(image, format, icc_profile=swapped_profile())).getpixel((4, 4))
    assert blue > 200 and red < 60 and green < 60


def test_a_palette_and_transparency_keep_a_profile() -> None:
    palette = Image.new("RGB", (8, 8), (230, 20, 20)).quantize()
    assert load_image(file_of(palette, icc_profile=swapped_profile())).getpixel((4, 4))[2] > 200
    clear = Image.new("RGBA", (8, 8), (230, 20, 20, 0))
    assert load_image(file_of(clear, icc_profile=swapped_profile())).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_profile_of_srgb_or_a_broken_one_changes_nothing(format: str) -> None:
    image = noise()
    plain = load_image(file_of(image, format)).tobytes()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    for profile in (srgb, srgb[:300], b"no profile", swapped_profile()[:200], lab):
        assert load_image(file_of(image, format, icc_profile=profile)).tobytes() == plain


def grey_profile() -> bytes:
    """Grey of gamma 1."""
    tags = {
        b"wtpt": b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061),
        b"kTRC": b"curv\0\0\0\0" + struct.pack(">I", 0),
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 2) + b"g\0" + b"\0" * 78,
    }
    table, body, offset = b"", b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        content += b"\0" * (-len(content) % 4)
        table += name + struct.pack(">II", offset + len(body), len(content))
        body += content
    head = struct.pack(">I4sI4s4s4s", 0, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ") + struct.pack(
        ">6H", 2020, 1, 1, 0, 0, 0
    )
    head += b"acsp" + b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061) + b"\0" * 48
    whole = head + struct.pack(">I", len(tags)) + table + body
    return struct.pack(">I", len(whole)) + whole[4:]


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_of_another_profile_is_converted(mode: str) -> None:
    image = (
        Image.new("L", (8, 8), 55).convert(mode)
        if mode != "I;16"
        else Image.fromarray(np.full((8, 8), 55 * 257, np.uint16))
    )
    assert load_image(file_of(image, icc_profile=grey_profile())).getpixel((0, 0))[0] in range(124, 132)


def test_grey_of_sixteen_and_thirty_two_bits_is_scaled_by_what_the_file_says() -> None:
    def first(values: Any, **options: Any) -> int:
        return load_image(file_of(Image.fromarray(values), "TIFF", **options)).getpixel((0, 0))[0]

    assert first(np.full((4, 4), 200, np.int32)) == 200
    assert first(np.full((4, 4), 200 * 257, np.int32)) == 200
    assert first(np.full((4, 4), 201 << 23, np.int32)) in (200, 201)
    assert first(np.full((4, 4), 200 * 257, np.uint16)) == 200
    assert first(np.full((4, 4), 200, np.uint16)) == 1, "of 16 bits white is known"
    assert first(np.full((4, 4), 200 / 255, np.float32)) == 200
    assert first(np.full((4, 4), 200, np.float32)) == 200
    assert first(np.full((4, 4), 200 * 257, np.float32)) == 200
    assert first(np.array([[-5, np.nan, np.inf, 1.0]], np.float32)) == 0
    big = Image.frombytes("I;16B", (1, 1), struct.pack(">H", 200 * 257))
    assert load_image(big).getpixel((0, 0)) == (200, 200, 200)


def test_transparency_of_sixteen_bits_lies_over_white() -> None:
    image = Image.fromarray(np.array([[0, 30_000]], np.uint16))
    assert [p[0] for p in load_image(file_of(image, transparency=0)).get_flattened_data()] == [255, 117]


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F"]
)
def test_every_mode_of_pillow_is_read(mode: str) -> None:
    image = Image.new("RGB", (8, 8), (200, 40, 40))
    if mode == "LAB":
        lab: Any = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        image = lab
    else:
        between = {"La": "LA", "RGBa": "RGBA", "PA": "P"}.get(mode)
        image = (image.convert(between) if between else image).convert(mode)
    loaded = load_image(image).getpixel((4, 4))
    wanted = {"1": None, "L": 87, "LA": 87, "La": 87, "I": 87, "F": 87}.get(mode, (200, 40, 40))
    if wanted is not None:
        wanted = (wanted,) * 3 if isinstance(wanted, int) else wanted
        assert max(abs(a - b) for a, b in zip(loaded, wanted, strict=True)) <= 16


def test_alpha_lies_over_white_as_one_composite_whatever_the_bands(monkeypatch: Any) -> None:
    image = noise(40, 30, "RGBA")
    whole = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB").tobytes()
    assert load_image(image).tobytes() == whole
    monkeypatch.setattr("dsd.images.colours._BAND", 70)
    assert load_image(image).tobytes() == whole


def test_of_an_animation_the_first_frame_is_read() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for format in ("GIF", "WEBP", "PNG", "TIFF"):
        data = file_of(
            frames[0],
            format,
            save_all=True,
            append_images=frames[1:],
            **({"lossless": True} if format == "WEBP" else {}),
        )
        assert load_image(data).getpixel((0, 0)) == (255, 0, 0)


FUZZED = {
    "png": lambda: file_of(noise(mode="RGBA"), icc_profile=swapped_profile(), exif=odd_exif(6)),
    "palette": lambda: file_of(noise().quantize(16), transparency=3),
    "deep": lambda: file_of(Image.fromarray(np.arange(96, dtype=np.uint16).reshape(8, 12) * 600)),
    "jpeg": lambda: file_of(noise(), "JPEG", icc_profile=swapped_profile(), exif=odd_exif(6)),
    "cmyk": lambda: file_of(noise(mode="CMYK"), "JPEG", progressive=True),
    "webp": lambda: file_of(noise(mode="RGBA"), "WEBP", exif=odd_exif(6)),
    "gif": lambda: file_of(noise().quantize(16), "GIF", save_all=True, append_images=[noise().quantize(8)]),
    "bmp": lambda: file_of(noise(), "BMP"),
    "tiff": lambda: file_of(noise(), "TIFF", compression="tiff_lzw"),
    "float": lambda: file_of(Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The bytes with a few of them changed, cut, doubled or taken from elsewhere; most changes are near the start."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        at = min(len(changed) - 1, int(len(changed) * chance.random() ** 2))
        kind = chance.randrange(5)
        if kind == 0:
            changed[at] = chance.choice((0, 1, 127, 128, 255, chance.randrange(256)))
        elif kind == 1:
            changed[at : at + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", os.urandom(0)))
        elif kind == 2:
            del changed[at : at + chance.randint(1, 12)]
        elif kind == 3:
            changed[at:at] = changed[at : at + chance.randint(1, 24)]
        elif len(changed) > 40:
            del changed[chance.randrange(30, len(changed)) :]
        if not changed:
            changed = bytearray(b"\0")
    return bytes(changed)


def with_true_sums(data: bytes) -> bytes:
    """A PNG whose chunks' sums are right again, so that what they hold is looked at."""
    out, at = data[:8], 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            return out + data[at:]
        out += chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length])
        at += 12 + length
    return out + data[at:]


@pytest.mark.parametrize("kind", FUZZED)
def test_a_damaged_file_is_a_picture_or_one_sentence(kind: str) -> None:
    whole, chance = FUZZED[kind](), random.Random(kind)
    assert load_image(whole).mode == "RGB"
    refused = 0
    for _ in range(int(os.environ.get("DSD_FUZZ", "150"))):
        data = mutated(whole, chance)
        data = with_true_sums(data) if data.startswith(b"\x89PNG") and chance.random() < 0.7 else data
        try:
            assert load_image(data, max_pixels=1_000_000).mode == "RGB"
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 700
    assert refused


def test_a_picture_is_cropped_padded_or_stretched_and_that_is_said() -> None:
    wide = Image.new("RGB", (80, 20), "blue")
    wide.paste("red", (0, 0, 20, 20))
    cropped, said = fit(wide, (40, 40), "crop")
    assert cropped.size == (40, 40) and said == "cropped from 80x20 to 40x40"
    assert {colour for _, colour in cropped.getcolors() or []} == {(0, 0, 255)}
    padded, said = fit(wide, (40, 40), "pad")
    assert said == "padded with white from 80x20 to 40x40" and padded.getpixel((20, 2)) == (255, 255, 255)
    assert padded.getpixel((2, 20)) == (255, 0, 0)
    stretched, said = fit(wide, (40, 40), "stretch")
    assert said == "stretched from 80x20 to 40x40" and stretched.getpixel((2, 2)) == (255, 0, 0)
    assert fit(wide, (10, 40), "crop")[1] == "resized from 80x20 to 40x10"
    assert fit(wide, (20, 80), "pad")[1] == ""


@pytest.mark.parametrize(("size", "how", "words"), [((4, 4), "cover", 'by "cover"'), ((0, 4), "crop", "0x4|4x0")])
def test_another_way_to_fit_is_refused(size: Any, how: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        fit(noise(), size, how)


def test_a_png_says_what_it_was_made_from() -> None:
    told = {"prompt": "a cat, 猫, at sea", "model": "tiny", "seed": "7"}
    data = encode(noise(), "png", told)
    image = Image.open(io.BytesIO(data))
    assert isinstance(image, PngImagePlugin.PngImageFile) and image.text == told
    assert load_image(data).tobytes() == noise().tobytes()
    assert encode(noise(), "png", {}) == encode_png(noise()) == file_of(noise())


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_other_formats_say_it_in_their_exif(format: Any) -> None:
    data = encode(noise(), format, {"prompt": "猫", "seed": "7"})
    comment = Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769)[0x9286]
    assert comment.removeprefix(b"ASCII\0\0\0") == b'{"prompt": "\\u732b", "seed": "7"}'
    assert load_image(data).size == noise().size
    with pytest.raises(UserError, match="metadata"):
        encode(noise(), format, {"prompt": "x" * 70_000})


@pytest.mark.parametrize(("format", "metadata"), [("gif", None), ("png", {"": "x"}), ("png", {"k" * 80: "x"})])
def test_what_cannot_be_written_is_told(format: Any, metadata: Any) -> None:
    with pytest.raises(UserError, match="cannot be"):
        encode(noise(), format, metadata)
