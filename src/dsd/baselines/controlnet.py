"""ControlNet (Zhang et al., ICCV 2023, arXiv 2302.05543) with the reference as the control image.

A trainable copy of the transformer's blocks sees the encoded reference beside the noisy latents, and its
zero-initialised outputs are added to those of the frozen model. Network and weights are diffusers'
`FluxControlNetModel`, started from the transformer as diffusers' FLUX script does.

Deviations: the paper's controls are maps of the target (edges, depth); a subject's picture is none, so it is trained on
the pairs that the student is trained on, from the reference to the other panel. Between guided branches a dropped
picture is a control of all zeros.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import FluxControlNetModel
from PIL import Image
from torch import Tensor, nn

from dsd.backbones.flux import FluxBackbone, pack
from dsd.backbones.protocol import Text
from dsd.baselines.conditioned import Conditioned, Look, conditioned
from dsd.baselines.setting import Setting
from dsd.images import to_tensor
from dsd.models import resolve

_DOUBLE_BLOCKS, _SINGLE_BLOCKS = 5, 10  # of the copy, at most; what the published FLUX ControlNets have
NOT_MATRICES = ("x_embedder", "context_embedder", "time_text_embed", ".linear.")


class ControlNet:
    """A `dsd.baselines.conditioned.Conditioner` whose picture is the control image.

    Args:
        backbone: the text-to-image model.
        size: (height, width) of the pictures drawn, in pixels; references are resized to it.
        weights: a folder or hub id of a `FluxControlNetModel`; None for an untrained copy.
    """

    not_matrices = NOT_MATRICES

    def __init__(self, backbone: FluxBackbone, size: tuple[int, int], weights: str | None = None) -> None:
        self.backbone, self.size = backbone, size
        network: Any = copy_of(backbone) if weights is None else FluxControlNetModel.from_pretrained(resolve(weights))
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
        arguments = self.backbone.arguments(latents, sigma, text, guidance=guidance)
        return self.backbone.evaluated(
            arguments, latents, **residuals(self.network, arguments, look["latents"] * keep.view(-1, 1, 1, 1))
        )

    def save(self, folder: Path) -> None:
        """Writes the folder that `FluxControlNetModel.from_pretrained` reads."""
        self.network.save_pretrained(folder)


def copy_of(backbone: FluxBackbone) -> Any:
    """An untrained `FluxControlNetModel`: the transformer's first blocks, and outputs of zero."""
    config: Any = backbone.transformer.config
    return FluxControlNetModel.from_transformer(
        backbone.transformer,
        num_layers=min(_DOUBLE_BLOCKS, config["num_layers"]),
        num_single_layers=min(_SINGLE_BLOCKS, config["num_single_layers"]),
        attention_head_dim=config["attention_head_dim"],
        num_attention_heads=config["num_attention_heads"],
    )


def residuals(network: Any, arguments: Mapping[str, Any], control: Tensor) -> dict[str, Any]:
    """What a ControlNet adds to the transformer's blocks.

    Args:
        network: the ControlNet.
        arguments: from `FluxBackbone.arguments`.
        control: latents of the control image, (b, c, h, w).
    """
    guidance = arguments["guidance"] if network.config["guidance_embeds"] else None
    double, single = network(
        **{**arguments, "guidance": guidance}, controlnet_cond=pack(control).to(network.dtype), return_dict=False
    )
    return {"controlnet_block_samples": double, "controlnet_single_block_samples": single}


def controlnet(setting: Setting) -> Conditioned:
    """The row of ControlNet."""

    def network(weights: str | None = None) -> ControlNet:
        return ControlNet(backbone, setting.drawing.size, weights)

    backbone = setting.backbone()
    return conditioned(setting, backbone, network, network, sees="reference")
