"""How a pipeline's autoencoder is run on a GPU: its layout, compiled or not, and from which size on in tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

_SHARE = 0.2
"""Of a GPU's memory that decoding one picture may take at once."""
_LIVE = 4
"""Feature maps of the widest layer at full size that decoding holds at once."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How an autoencoder is run.

    Attributes:
        channels_last: Whether its convolutions see channels last, as the tensor cores of a GPU take them.
        tile: Side in pixels above which a picture is decoded in tiles of it, blended where they meet; None for never.
    """

    channels_last: bool
    tile: int | None


def choose(device: str, memory: int, channels: int, numbers: int) -> Choice:
    """How to run an autoencoder.

    Args:
        device: Type of it, "cpu" or "cuda".
        memory: Of the device in bytes.
        channels: Of the decoder's layers at full size.
        numbers: Bytes of a number.
    """
    if device != "cuda":
        return Choice(channels_last=False, tile=None)
    pixels = _SHARE * memory / (_LIVE * channels * numbers)
    side = int(pixels**0.5) // 256 * 256
    return Choice(channels_last=True, tile=max(512, side))


def hasten(pipeline: Any, device: torch.device) -> list[str]:
    """Runs a pipeline's autoencoder as suits its device.

    Returns:
        What was done, in sentences.
    """
    vae = pipeline.vae
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return run_as(vae, choose(device.type, memory, vae.config["block_out_channels"][0], vae.dtype.itemsize))


def run_as(vae: Any, choice: Choice) -> list[str]:
    """Runs an autoencoder as was chosen.

    Returns:
        What was done, in sentences.
    """
    done = []
    if choice.channels_last:
        vae.to(memory_format=torch.channels_last)
        done.append("The autoencoder's convolutions see channels last.")
    if choice.tile is not None and not vae.use_tiling:
        vae.tile_sample_min_size = choice.tile
        vae.tile_latent_min_size = choice.tile // 2 ** (len(vae.config["block_out_channels"]) - 1)
        vae.enable_tiling()
    if choice.tile is not None:
        done.append(f"Pictures of more than {vae.tile_sample_min_size} pixels a side are decoded in tiles.")
    return done
