"""IP-Adapter and IP-Adapter-Plus (Ye et al., arXiv 2308.06721): decoupled cross-attention on an image encoder's tokens.

The text-to-image model stays frozen; a projection of the encoder's features to a few tokens is trained, and keys and
values for them in each attention, by reconstructing the very picture that is shown. Plain IP-Adapter projects one
vector to four tokens, Plus has a resampler look at all patches. The attention is diffusers' own of
the family, as its published adapters have it; their files load here.

Deviations: the image encoder is whatever `Setting.vision` names; it should be none of those that measure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.models.embeddings import IPAdapterPlusImageProjection, MultiIPAdapterImageProjection
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsd.backbones.protocol import Text
from dsd.backbones.registry import part_of
from dsd.backbones.stock import StockBackbone
from dsd.baselines.conditioned import Conditioned, Look, conditioned
from dsd.baselines.setting import Setting
from dsd.baselines.vision import Vision
from dsd.errors import UserError
from dsd.models import resolve

_QUERIES = 16  # tokens of Plus


class IPAdapter:
    """A `dsd.baselines.conditioned.Conditioner`: image tokens that every double block attends to beside the text's.

    Args:
        backbone: the text-to-image model, whose attention processors are replaced.
        vision: the image encoder.
        weights: in diffusers' format (folder, hub id or tensors by name); None for an untrained adapter.
        plus: patches through a resampler in place of one vector.
    """

    not_matrices = ("latents",)

    def __init__(
        self, backbone: StockBackbone, vision: Vision, weights: str | Mapping[str, Tensor] | None = None, *, plus: bool
    ) -> None:
        self.backbone, self.vision, self.plus = backbone, vision, plus
        self.own = part_of(backbone.family, "ip_adapter")
        with torch.no_grad():
            blank = Image.new("RGB", (64, 64))
            self.features = (vision.patches([blank]) if plus else vision.whole([blank])).shape[-1]
        self.own.install(backbone, None if plus else weights, self.features)
        if plus:
            self._install_resampler(weights)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The projection and every attention's keys and values."""
        return self.own.trained_of(self.backbone)

    def look(self, pictures: Sequence[Image.Image]) -> Look:
        """The image encoder's features, (b, d) or (b, patches, d)."""
        return {"features": self.vision.patches(pictures) if self.plus else self.vision.whole(pictures)}

    def velocity(
        self, latents: Tensor, sigma: Tensor, text: Text, look: Look, keep: Tensor, guidance: float | None
    ) -> Tensor:
        """See `dsd.baselines.conditioned.Conditioner`; a picture that is not kept has features of all zeros."""
        features = look["features"]
        shown = features * keep.view(-1, *[1] * (features.ndim - 1))
        arguments = self.backbone.arguments(latents[:, None], sigma, text, guidance=guidance)
        attention = {"ip_adapter_image_embeds": [shown[:, None]]}
        return self.backbone.evaluated(arguments, latents[:, None], joint_attention_kwargs=attention)[:, 0]

    def save(self, folder: Path) -> None:
        """Writes ``ip_adapter.safetensors``, for diffusers' `load_ip_adapter` (of Plus, for this class alone)."""
        save_file(self.own.state_of(self.trained), folder / self.own.WEIGHTS_FILE)

    def _install_resampler(self, weights: str | Mapping[str, Tensor] | None) -> None:
        transformer: Any = self.backbone.transformer
        width = transformer.config.joint_attention_dim
        heads = max(1, width // 64)
        resampler = IPAdapterPlusImageProjection(
            embed_dims=self.features, output_dims=width, hidden_dims=width, depth=4, dim_head=width // heads,
            heads=heads, num_queries=_QUERIES,
        )  # fmt: skip
        transformer.encoder_hid_proj = MultiIPAdapterImageProjection([resampler]).to(
            self.backbone.device, transformer.dtype
        )
        if weights is None:
            return
        tensors = weights if isinstance(weights, Mapping) else load_file(Path(resolve(weights)) / self.own.WEIGHTS_FILE)
        for part, module in self.trained.items():
            prefix = "image_proj." if part == "image_proj" else f"ip_adapter.{part}."
            found = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
            if part != "image_proj":
                found = {name.replace("_ip.", "_ip.0."): tensor for name, tensor in found.items()}
            module.load_state_dict(found)


def ip_adapter(setting: Setting) -> Conditioned:
    """The row of plain IP-Adapter."""
    return _method(setting, plus=False, sees="target")


def ip_adapter_plus(setting: Setting) -> Conditioned:
    """The row of IP-Adapter-Plus."""
    return _method(setting, plus=True, sees="target")


def ip_adapter_on_pairs(setting: Setting) -> Conditioned:
    """IP-Adapter-Plus's architecture trained as the student is: from the reference to the other panel of the pair."""
    return _method(setting, plus=True, sees="reference")


def _method(setting: Setting, *, plus: bool, sees: Any) -> Conditioned:
    def adapter(weights: str | None = None) -> IPAdapter:
        return IPAdapter(backbone, vision, weights, plus=plus)

    backbone = setting.backbone()
    if setting.vision is None:
        raise UserError(
            f'the method "{setting.name}" needs an image encoder; give one, such as openai/clip-vit-large-patch14'
        )
    vision = Vision(setting.vision, backbone.device)
    return conditioned(setting, backbone, adapter, adapter, sees=sees, models={"vision": setting.vision})
