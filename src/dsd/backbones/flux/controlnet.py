"""ControlNets of FLUX.1: diffusers' `FluxControlNetModel`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import FluxControlNetModel
from torch import Tensor

from dsd.backbones.flux.backbone import FluxBackbone, pack
from dsd.weights import load as load_weights

_DOUBLE_BLOCKS, _SINGLE_BLOCKS = 5, 10  # of the copy, at most; what the published FLUX ControlNets have
NOT_MATRICES = ("x_embedder", "context_embedder", "time_text_embed", ".linear.")
"""See `dsd.backbones.protocol.Layers`."""


def load(folder: str) -> Any:
    """A trained network."""
    return load_weights(FluxControlNetModel, folder)


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
