"""Pictures that are rare, and files that are not what they seem."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dsd.errors import UserError
from dsd.images import encode, fit, load_image


class _Gone:
    def read(self) -> bytes:
        raise OSError("gone")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    closed, written = io.BytesIO(b"x"), (tmp_path / "new").open("wb")
    closed.close()
    with written:
        for source in (closed, written, _Gone()):
            odd: Any = source
            with pytest.raises(UserError, match="cannot be read"):
                load_image(odd)


def test_samples_of_sixteen_bits_are_read_in_either_order_of_bytes() -> None:
    for order in "<>":
        assert load_image(np.full((2, 2, 3), 65535, f"{order}u2")).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tensors_without_plain_values_are_told() -> None:
    for tensor in (
        torch.zeros(3, 4, 4, device="meta"),
        torch.zeros(3, 4, 4).to_sparse(),
        torch.quantize_per_tensor(torch.rand(3, 4, 4), 0.1, 0, torch.quint8),
    ):
        with pytest.raises(UserError, match="dense"):
            load_image(tensor)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1)])
def test_a_picture_that_is_one_line_can_be_padded(size: tuple[int, int]) -> None:
    padded, words = fit(Image.new("RGB", size, "black"), (8, 8), "pad")
    assert padded.size == (8, 8)
    assert padded.getextrema()[0] == (0, 255)
    assert f"from {size[0]}x{size[1]} to 8x8" in words


@pytest.mark.parametrize(("format", "side"), [("jpeg", 65_501), ("webp", 16_384)])
def test_a_picture_that_is_too_long_for_a_format_is_told(format: Any, side: int) -> None:
    with pytest.raises(UserError, match="write PNG"):
        encode(Image.new("RGB", (side, 1)), format)
