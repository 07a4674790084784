"""IP-Adapters of FLUX.1: diffusers' `FluxIPAdapterAttnProcessor` in the double blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers.models.embeddings import ImageProjection
from torch import Tensor, nn

from dsd.backbones.flux.backbone import FluxBackbone
from dsd.models import resolve

WEIGHTS_FILE = "ip_adapter.safetensors"
_TOKENS = 4  # of plain IP-Adapter; diffusers knows no other number


def install(backbone: FluxBackbone, weights: str | Mapping[str, Tensor] | None, features: int) -> None:
    """Puts a plain IP-Adapter into a model, by diffusers' own loader.

    Args:
        backbone: whose transformer gets it.
        weights: a folder, a hub id, or tensors by name; None for an untrained one, which changes nothing yet.
        features: of the image encoder.
    """
    pipeline: Any = backbone.pipeline
    tensors = _untrained(backbone, features) if weights is None else weights
    given = tensors if isinstance(tensors, str) else _nested(tensors)
    pipeline.load_ip_adapter(
        resolve(given) if isinstance(given, str) else given,
        weight_name=WEIGHTS_FILE,
        image_encoder_pretrained_model_name_or_path=None,
    )


def trained_of(backbone: FluxBackbone) -> dict[str, nn.Module]:
    """The projection and every attention's keys and values of an installed adapter."""
    transformer: Any = backbone.transformer
    processors = {str(n): block.attn.processor for n, block in enumerate(transformer.transformer_blocks)}
    return {"image_proj": transformer.encoder_hid_proj.image_projection_layers[0], **processors}


def state_of(trained: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """The tensors of `trained_of` by their names in diffusers' format."""
    tensors = {}
    for part, module in trained.items():
        for name, value in module.state_dict().items():
            if part == "image_proj":
                key = f"image_proj.{name.replace('image_embeds', 'proj')}"
            else:
                key = f"ip_adapter.{part}.{name.replace('_ip.0.', '_ip.')}"
            tensors[key] = value.detach().cpu().contiguous().clone()
    return tensors


def _untrained(backbone: FluxBackbone, features: int) -> dict[str, Tensor]:
    """A projection with random weights, and keys and values that add nothing."""
    transformer: Any = backbone.transformer
    width, hidden = transformer.config.joint_attention_dim, transformer.inner_dim
    projection = ImageProjection(features, width, _TOKENS)
    tensors = {f"image_proj.{n.replace('image_embeds', 'proj')}": t for n, t in projection.state_dict().items()}
    for number in range(len(transformer.transformer_blocks)):
        keys, values = nn.Linear(width, hidden), nn.Linear(width, hidden)
        nn.init.zeros_(values.weight)
        nn.init.zeros_(values.bias)
        for name, layer in (("to_k_ip", keys), ("to_v_ip", values)):
            tensors |= {f"ip_adapter.{number}.{name}.{n}": t for n, t in layer.state_dict().items()}
    return tensors


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, tensor in tensors.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    return parts
