"""ControlNet (Zhang et al., ICCV 2023, arXiv 2302.05543) with the reference as the control image.

A trainable copy of the transformer's blocks sees the encoded reference beside the noisy latents, and its
zero-initialised outputs are added to those of the frozen model. Network and weights are diffusers' own of the family,
started from the transformer as diffusers' scripts do.

Deviations: the paper's controls are maps of the target (edges, depth); a subject's picture is none, so it is trained on
the pairs that the student is trained on, from the reference to the other panel. Between guided branches a dropped
picture is a control of all zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from dsd.backbones.protocol import Text
from dsd.backbones.registry import part_of
from dsd.backbones.stock import StockBackbone
from dsd.baselines.conditioned import Conditioned, Look, conditioned
from dsd.baselines.setting import Setting
from dsd.images import to_tensor
from dsd.models import resolve


class ControlNet:
    """A `dsd.baselines.conditioned.Conditioner` whose picture is the control image.

    Args:
        backbone: the text-to-image model.
        size: (height, width) of the pictures drawn, in pixels; references are resized to it.
        weights: a folder or hub id of a ControlNet of the family; None for an untrained copy.
    """

    def __init__(self, backbone: StockBackbone, size: tuple[int, int], weights: str | None = None) -> None:
        self.backbone, self.size, self.own = backbone, size, part_of(backbone.family, "controlnet")
        self.not_matrices = self.own.NOT_MATRICES
        network: Any = self.own.copy_of(backbone) if weights is None else self.own.load(resolve(weights))
        self.network = network.to(backbone.device, backbone.transformer.dtype)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The whole copy."""
        return {"controlnet": self.network}

    def look(self, pictures: Sequence[Image.Image]) -> Look:
        """The pictures' latents."""
        return {"latents": self.backbone.encode(to_tensor(pictures, self.size))}

    def velocity(
        self, latents: Tensor, sigma: Tensor, text: Text, look: Look, keep: Tensor, guidance: float | None
    ) -> Tensor:
        """See `dsd.baselines.conditioned.Conditioner`."""
        arguments = self.backbone.arguments(latents[:, None], sigma, text, guidance=guidance)
        control = look["latents"] * keep.view(-1, 1, 1, 1)
        added = self.own.residuals(self.network, arguments, control)
        return self.backbone.evaluated(arguments, latents[:, None], **added)[:, 0]

    def save(self, folder: Path) -> None:
        """Writes the folder that diffusers' ControlNet reads."""
        self.network.save_pretrained(folder)


def controlnet(setting: Setting) -> Conditioned:
    """The row of ControlNet."""

    def network(weights: str | None = None) -> ControlNet:
        return ControlNet(backbone, setting.drawing.size, weights)

    backbone = setting.backbone()
    return conditioned(setting, backbone, network, network, sees="reference")
