"""InstantID (Wang et al., arXiv 2401.07519): a face's identity vector by cross-attention, its landmarks by a
ControlNet.

Identity tokens projected from a face recogniser's vector are attended to beside the text (as in IP-Adapter), and stand
in place of the text in IdentityNet, a ControlNet whose control is a drawing of five landmarks. Both are trained
together by reconstructing the picture that the face was found in. At test time the landmarks are the reference's, so
the head stays where it was there, as with the published model when no other pose is given.

Deviations: four identity tokens from a linear projection in place of sixteen from a resampler, which diffusers'
loader does not know; a picture without a face is drawn from the text alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dsd.backbones.protocol import Text
from dsd.backbones.registry import part_of
from dsd.backbones.stock import StockBackbone
from dsd.baselines.conditioned import Conditioned, Look, conditioned
from dsd.baselines.faces import Faces, draw_landmarks
from dsd.baselines.setting import Setting
from dsd.errors import UserError
from dsd.images import to_tensor
from dsd.models import resolve

_NETWORK = "identitynet"


class InstantID:
    """A `dsd.baselines.conditioned.Conditioner` of faces.

    Args:
        backbone: the text-to-image model, whose attention processors are replaced.
        faces: finds and recognises them.
        size: (height, width) of the pictures drawn, in pixels.
        weights: a folder with ``ip_adapter.safetensors`` and ``identitynet/``; None for an untrained method.
    """

    def __init__(
        self, backbone: StockBackbone, faces: Faces, size: tuple[int, int], weights: str | None = None
    ) -> None:
        self.backbone, self.faces, self.size = backbone, faces, size
        self.attention, self.control = (part_of(backbone.family, part) for part in ("ip_adapter", "controlnet"))
        self.not_matrices = self.control.NOT_MATRICES
        vector = faces.find([Image.new("RGB", (size[1], size[0]))]).identity.shape[1]
        folder = None if weights is None else Path(resolve(weights))
        attention, own = self.attention, self.control
        attention.install(backbone, None if folder is None else load_file(folder / attention.WEIGHTS_FILE), vector)
        network: Any = own.copy_of(backbone) if folder is None else own.load(str(folder / _NETWORK))
        self.network = network.to(backbone.device, backbone.transformer.dtype)

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """The projection, every attention's keys and values, and IdentityNet."""
        return {**self.attention.trained_of(self.backbone), _NETWORK: self.network}

    def look(self, pictures: Sequence[Image.Image]) -> Look:
        """Identity vectors (b, d), whether there is a face (b,), and latents of the drawn landmarks (b, c, h, w)."""
        found = self.faces.find(pictures)
        control = self.backbone.encode(to_tensor(draw_landmarks(found, self.size)))
        return {"identity": found.identity, "present": found.present, "latents": control}

    def velocity(
        self, latents: Tensor, sigma: Tensor, text: Text, look: Look, keep: Tensor, guidance: float | None
    ) -> Tensor:
        """See `dsd.baselines.conditioned.Conditioner`; without a face the frozen model is left to the text."""
        shown = (keep & look["present"]).float()
        vectors = (look["identity"] * shown[:, None])[:, None]
        arguments = self.backbone.arguments(latents[:, None], sigma, text, guidance=guidance)
        transformer: Any = self.backbone.transformer
        tokens = transformer.encoder_hid_proj([vectors])[0][:, 0].to(arguments["encoder_hidden_states"].dtype)
        instead = {
            "encoder_hidden_states": tokens,
            "txt_ids": torch.zeros_like(arguments["txt_ids"][:1]).expand(tokens.shape[1], -1),
        }
        control = look["latents"] * shown.view(-1, 1, 1, 1)
        added = self.control.residuals(self.network, {**arguments, **instead}, control)
        return self.backbone.evaluated(
            arguments, latents[:, None], joint_attention_kwargs={"ip_adapter_image_embeds": [vectors]}, **added
        )[:, 0]

    def save(self, folder: Path) -> None:
        """Writes ``ip_adapter.safetensors`` and ``identitynet/``."""
        attention = self.attention
        save_file(attention.state_of(attention.trained_of(self.backbone)), folder / attention.WEIGHTS_FILE)
        self.network.save_pretrained(folder / _NETWORK)


def instantid(setting: Setting) -> Conditioned:
    """The row of InstantID."""
    if setting.faces is None:
        raise UserError(
            f'the method "{setting.name}" needs a model that finds faces; give the folder of one '
            "(see dsd.baselines.faces)"
        )

    def method(weights: str | None = None) -> InstantID:
        return InstantID(backbone, faces, setting.drawing.size, weights)

    backbone = setting.backbone()
    faces = Faces(setting.faces, setting.drawing.size, backbone.device)
    return conditioned(setting, backbone, method, method, sees="target", models={"faces": setting.faces})
