"""Which family a model folder belongs to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.errors import UserError
from dsd.models import resolve

if TYPE_CHECKING:
    import torch

    from dsd.backbones.protocol import Backbone

FAMILIES = {
    "FluxPipeline": "flux",
    "FluxControlPipeline": "flux",
    "FluxTwoFramePipeline": "flux",
}
"""Pipeline classes, as `model_index.json` names them, and their family."""


def family_of(name: str) -> str:
    """Reads a model's family from its `model_index.json`.

    Args:
        name: `embedded:NAME`, a folder, or a hub id.

    Raises:
        UserError: No such model, or a family that is not known.
    """
    folder = resolve(name)
    pipeline = _model_index(folder).get("_class_name", "")
    if pipeline not in FAMILIES:
        raise UserError(
            f'"{name}" is a {pipeline or "model without a pipeline class"}, known are: {", ".join(FAMILIES)}'
        )
    return FAMILIES[pipeline]


def load_backbone(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    transformer: bool = True,
    text: bool = True,
    vae: bool = True,
) -> Backbone:
    """Loads a model of any known family.

    Args:
        name: `embedded:NAME`, a folder, or a hub id.
        device: Where to compute.
        dtype: Precision of the weights, float32 by default.
        transformer: Whether to load the transformer.
        text: Whether to load the text encoders.
        vae: Whether to load the autoencoder.

    Raises:
        UserError: No such model, or a family that is not known.
    """
    import torch

    from dsd.backbones.flux import FluxBackbone

    loaders = {"flux": FluxBackbone.from_pretrained}
    load = loaders[family_of(name)]
    return load(resolve(name), device=device, dtype=dtype or torch.float32, transformer=transformer, text=text, vae=vae)


def _model_index(folder: str) -> dict:
    path = Path(folder)
    if path.is_dir():
        index = path / "model_index.json"
        if not index.is_file():
            raise UserError(f'"{folder}" is no diffusers model (it has no model_index.json); give the model\'s folder')
        return json.loads(index.read_text())
    if path.is_absolute() or folder.startswith(".") or folder.count("/") != 1:
        raise UserError(f'there is no model folder "{folder}"; give a folder that exists or a hub id (owner/name)')
    from diffusers import DiffusionPipeline

    try:
        config: Any = DiffusionPipeline.load_config(folder)
        return dict(config)
    except OSError as error:
        raise UserError(f'"{folder}" is neither a folder nor a model of the hub that can be reached') from error
