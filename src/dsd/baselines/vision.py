"""Image encoders that methods are conditioned on: the vision part of any `AutoModel`, by pictures or by patches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel

from dsd.models import resolve
from dsd.weights import load, load_processor


class Vision:
    """A frozen image encoder such as CLIP's, or the eyes of a vision-language model.

    Args:
        name: ``embedded:NAME``, a folder or a hub id that `AutoModel` and `AutoImageProcessor` read.
        device: where it computes.
    """

    def __init__(self, name: str, device: torch.device | str = "cpu") -> None:
        folder = resolve(name)
        self.processor: Any = load_processor(AutoImageProcessor, folder)
        model = load(AutoModel, folder, optional=("pooler",), strict=False, dtype=torch.float32)
        model = model.to(device).eval().requires_grad_(False)
        self.device = device
        self.tower: Any = getattr(model, "vision_tower", None) or getattr(model, "vision_model", None) or model
        self.projection: Any = getattr(model, "visual_projection", None)

    @torch.no_grad()
    def whole(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """One vector a picture: projected where the model has a space that it shares with text, as CLIP has."""
        out = self._out(pictures)
        pooled = out.last_hidden_state[:, 0] if out.pooler_output is None else out.pooler_output.flatten(1)
        return pooled if self.projection is None else self.projection(pooled)

    @torch.no_grad()
    def patches(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "n p d"]:
        """A vector a patch: of the last level but one, as IP-Adapter-Plus has it, or of a feature map's last one."""
        out = self._out(pictures, output_hidden_states=True)
        states = out.last_hidden_state if out.last_hidden_state.ndim == 4 else out.hidden_states[-2]
        return states.flatten(2).transpose(1, 2) if states.ndim == 4 else states

    def _out(self, pictures: Sequence[Image.Image], **settings: bool) -> Any:
        inputs = self.processor(images=list(pictures), return_tensors="pt")
        return self.tower(pixel_values=inputs["pixel_values"].to(self.device), **settings)
