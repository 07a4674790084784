"""Which family a model folder belongs to, and where the family is.

A family is a folder beside this file with three files (`layers.py`: where things are in its transformer; `backbone.py`:
its networks behind `StockBackbone`; `pipeline.py`: how its stock pipeline draws) and a line in `FAMILIES`.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.errors import UserError, reason_of
from dsd.models import require_reachable, resolve

if TYPE_CHECKING:
    import torch

    from dsd.backbones.protocol import Layers
    from dsd.backbones.stock import StockBackbone

FAMILIES = {
    "flux": ("FluxPipeline", "FluxControlPipeline", "FluxTwoFramePipeline"),
    "sd3": ("StableDiffusion3Pipeline",),
    "flux2": ("Flux2KleinPipeline",),
}
"""Families and their pipeline classes, as `model_index.json` names them."""
TWO_FRAME = "TwoFrame"
"""What a two-frame pipeline's class is called before the name of the stock class that it extends."""


def family_of(name: str) -> str:
    """Reads a model's family from its `model_index.json`.

    Args:
        name: `embedded:NAME`, a folder, or a hub id.

    Raises:
        UserError: No such model, or a family that is not known.
    """
    return _family_of(model_index(resolve(name)).get("_class_name", ""), f'"{name}"')


def family_of_class(pipeline: type) -> str:
    """The family of a pipeline's class.

    Raises:
        UserError: It is of none that is known.
    """
    return _family_of(pipeline.__name__, "the pipeline")


def _family_of(class_name: str, what: str) -> str:
    pipeline = class_name.removeprefix(TWO_FRAME)
    for family, pipelines in FAMILIES.items():
        if pipeline in pipelines:
            return family
    known = ", ".join(one for pipelines in FAMILIES.values() for one in pipelines)
    raise UserError(f"{what} is a {pipeline or 'model without a pipeline class'}, known are: {known}")


def backbone_class(family: str) -> type[StockBackbone]:
    """The `StockBackbone` of a family."""
    return _module(family, "backbone").BACKBONE


def layers_of(family: str) -> Layers:
    """Where things are in a family's transformer."""
    return _module(family, "layers").LAYERS


def drawing_of(family: str) -> Any:
    """The module that says how the family's stock pipeline draws: its `own_arguments`, and `whole_text`."""
    return _module(family, "pipeline")


def load_backbone(
    name: str,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    transformer: bool = True,
    text: bool = True,
    vae: bool = True,
) -> StockBackbone:
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

    load = backbone_class(family_of(name)).from_pretrained
    return load(resolve(name), device=device, dtype=dtype or torch.float32, transformer=transformer, text=text, vae=vae)


def part_of(family: str, part: str, what: str | None = None) -> Any:
    """A further file of a family's folder, which not every family has, such as ``controlnet`` or ``comfy``.

    Args:
        family: By name.
        part: The file.
        what: It is for, in words.

    Raises:
        UserError: the family has no such file.
    """
    if importlib.util.find_spec(f"dsd.backbones.{family}.{part}") is None:
        having = [name for name in FAMILIES if importlib.util.find_spec(f"dsd.backbones.{name}.{part}")]
        raise UserError(
            f'there is no {what or part} for models of the family "{family}" yet, only for: {", ".join(having)}'
        )
    return _module(family, part)


def _module(family: str, part: str) -> Any:
    return importlib.import_module(f"dsd.backbones.{family}.{part}")


def model_index(folder: str) -> dict[str, Any]:
    """What a model's `model_index.json` says.

    Args:
        folder: A folder, or a hub id.

    Raises:
        UserError: No such model, or a damaged file.
    """
    path = Path(folder)
    if path.is_dir():
        index = path / "model_index.json"
        if not index.is_file():
            raise UserError(f'"{folder}" is no diffusers model (it has no model_index.json); give the model\'s folder')
        try:
            content = json.loads(index.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f'"{index}" cannot be read ({reason_of(error)}); give the folder of a whole model'
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("_class_name", ""), str):
            raise UserError(f'"{index}" does not name a pipeline class; give the folder of a whole model')
        return content
    if path.is_absolute() or folder.startswith(".") or folder.count("/") != 1:
        raise UserError(f'there is no model folder "{folder}"; give a folder that exists or a hub id (owner/name)')
    require_reachable(folder)
    from diffusers import DiffusionPipeline

    try:
        config: Any = DiffusionPipeline.load_config(folder)
        return dict(config)
    except OSError as error:
        raise UserError(f'"{folder}" is neither a folder nor a model of the hub that can be reached') from error
