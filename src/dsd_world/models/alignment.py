"""Representation alignment (REPA, Yu et al. 2025, arXiv 2410.06940): a block of the transformer sees what a trained
vision tower sees in the same place.

The tower is tiny-vlm's, which learnt from clean pictures what individuals are made of; the encoders that evaluate have
no part in training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

_FINE, _COARSE = 1, 2  # stages of the tower with 8x8 and with 4x4 places a panel
_EPSILON = 1e-3


class Tower:
    """What tiny-vlm's tower sees in each token of a panel: its two finer stages.

    Args:
        folder: of the trained tiny-vlm.
        device: where it computes.
    """

    def __init__(self, folder: Path, device: torch.device | str = "cpu") -> None:
        model: Any = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
        self._tower = model.model.vision_tower.to(device).eval()

    @torch.no_grad()
    def __call__(self, panels: Float[Tensor, "n 3 64 64"]) -> Float[Tensor, "n d 8 8"]:
        """Features of panels in [-1, 1]."""
        states = self._tower(panels, output_hidden_states=True).hidden_states
        fine, coarse = (rearrange(states[k], "n (h w) d -> n d h w", h=side) for k, side in ((_FINE, 8), (_COARSE, 4)))
        return torch.cat([fine, repeat(coarse, "n d h w -> n d (h p) (w q)", p=2, q=2)], 1)


def standardised(features: Float[Tensor, "n d h w"]) -> Float[Tensor, "n d h w"]:
    """Features of mean 0 and variance 1 in every channel, so that no channel decides the cosine alone."""
    mean, deviation = features.mean((0, 2, 3), keepdim=True), features.std((0, 2, 3), keepdim=True)
    return (features - mean) / (deviation + _EPSILON)


class Alignment(nn.Module):
    """The projection of a block's image tokens to the tower's features, and its loss; used in training only.

    Args:
        block: a single-stream block of FLUX, which returns (text states, image states).
        width: of the block's states.
        features: of the tower.
    """

    def __init__(self, block: nn.Module, width: int, features: int) -> None:
        super().__init__()
        self.project = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, features))
        self._states: Tensor | None = None
        block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._states = outputs[1]

    def forward(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, ""]:
        """One minus the mean cosine between the states of the block's last pass, projected, and the tower's features.

        Raises:
            ValueError: the block has not run since the last call.
        """
        if self._states is None:
            raise ValueError("the aligned block has not run yet")
        seen = self.project(self._states)
        self._states = None
        return 1 - F.cosine_similarity(seen, rearrange(features, "b d h w -> b (h w) d"), dim=-1).mean()
