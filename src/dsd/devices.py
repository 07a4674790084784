"""Where to compute, in what numbers, and how much at once: a GPU when there is one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

import torch

Value = TypeVar("Value")


def default_device() -> str:
    """``cuda`` when there is a GPU, else ``cpu``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def inference_dtype(device: str) -> torch.dtype:
    """bfloat16 on a GPU, and float32 on a CPU, where bfloat16 is slower by far."""
    return torch.bfloat16 if device.startswith("cuda") else torch.float32


def by_device(on_cpu: Value, on_gpu: Value) -> Value:
    """The size that suits the default device; code is the same on all, sizes are not."""
    return on_gpu if default_device() == "cuda" else on_cpu


def batch_factor() -> int:
    """How many times the batch of a CPU a recipe takes here: a GPU is hardly busy with it."""
    return by_device(1, 8)


def mixed_precision() -> AbstractContextManager[object]:
    """bfloat16 where a GPU multiplies; everything in float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if default_device() == "cuda" else nullcontext()
