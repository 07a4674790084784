"""Arrays and tensors as pictures: numpy's (h, w, c) and torch's (c, h, w), whole numbers or floats in [0, 1]."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from PIL import Image

from dsd.errors import UserError

_SLACK = 1e-3
"""How far outside [0, 1] a value may lie by rounding; half precision has 3 digits."""
_CHANNELS = (1, 3, 4)


def is_tensor(source: Any) -> bool:
    """Whether something is a torch tensor; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(source, torch.Tensor)


def from_tensor(tensor: Any) -> Image.Image:
    """A picture of a torch tensor (c, h, w) or (1, c, h, w).

    Raises:
        UserError: See `from_array`.
    """
    shape = tuple(tensor.shape)
    one = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    if one.ndim != 3 or one.shape[0] not in _CHANNELS:
        raise UserError(
            f"a tensor of shape {shape} was given as a picture, but it must be (3, h, w) or (1, 3, h, w), with 1 or 4 "
            "channels in place of 3 for grey or transparency; give its pictures one by one"
        )
    if one.is_meta or one.is_sparse or one.is_quantized:
        kind = "on the device meta, without values" if one.is_meta else "sparse" if one.is_sparse else "quantised"
        raise UserError(f"the tensor that was given as a picture is {kind}; give a dense one with values")
    one = one.detach().cpu()
    values = one.float().numpy() if one.is_floating_point() else one.numpy()
    return _picture(np.moveaxis(values, 0, -1), "tensor")


def from_array(array: np.ndarray) -> Image.Image:
    """A picture of an array (h, w), (h, w, c) or (1, h, w, c): uint8, uint16, bool, or floats in [0, 1].

    Raises:
        UserError: Another shape, type or range.
    """
    one = array[0] if array.ndim == 4 and len(array) == 1 else array
    one = one[..., None] if one.ndim == 2 else one
    if one.ndim != 3 or one.shape[-1] not in _CHANNELS:
        raise UserError(
            f"an array of shape {array.shape} was given as a picture, but it must be (h, w), (h, w, 3) or (h, w, 4); "
            "give its pictures one by one, channels last"
        )
    return _picture(one, "array")


def _picture(values: np.ndarray, what: str) -> Image.Image:
    bytes_ = _to_bytes(values, what)
    return Image.fromarray(np.ascontiguousarray(bytes_[..., 0] if bytes_.shape[-1] == 1 else bytes_))


def _to_bytes(values: np.ndarray, what: str) -> np.ndarray:
    if not values.size:
        raise UserError(f"the {what} that was given as a picture has shape {values.shape}; give at least one pixel")
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * 255
    if (values.dtype.kind, values.dtype.itemsize) == ("u", 2):  # in either order of bytes
        return (values / 257).round().astype(np.uint8)
    if not np.issubdtype(values.dtype, np.floating):
        raise UserError(
            f"the {what} that was given as a picture holds {values.dtype}, but must hold uint8, or floats in [0, 1]"
        )
    low, high = float(values.min()), float(values.max())
    if not (low >= -_SLACK and high <= 1 + _SLACK):  # so that it holds of NaN too
        raise UserError(
            f"the {what} that was given as a picture has values from {low:g} to {high:g}, but floats must be in "
            "[0, 1]; scale them, or give uint8"
        )
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
