"""A two-frame model as a folder that stock diffusers opens as what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from dsd.backbones.adapter import METADATA_FILE
from dsd.config import to_json
from dsd.files import write_atomic

CARD = "README.md"


def as_stock(config: str, pipeline: Any) -> str:
    """A pipeline's config under the name of the stock class that opens it.

    Args:
        config: JSON, as diffusers writes it.
        pipeline: A `TwoFramePipeline`.
    """
    backbone = pipeline.backbone
    stock = backbone.control_pipeline if backbone.is_widened else None
    entries = json.loads(config) | {"_class_name": (stock or backbone.pipeline_class).__name__}
    return json.dumps(entries, indent=2, sort_keys=True) + "\n"


@contextmanager
def with_merged_transformer(pipeline: Any) -> Iterator[None]:
    """While it lasts, LoRAs that are loaded and not fused are part of the transformer's weights, under plain names."""
    loaded = pipeline.transformer
    if not any(isinstance(module, BaseTunerLayer) for module in loaded.modules()):
        yield
        return
    pipeline.transformer = _merged(loaded)
    try:
        yield
    finally:
        pipeline.transformer = loaded


@torch.no_grad()
def _merged(transformer: Any) -> Any:
    with torch.device("meta"):
        plain = type(transformer).from_config(dict(transformer.config))
    layers = dict(transformer.named_modules())
    state = {}
    for name in plain.state_dict():
        path, _, kind = name.rpartition(".")
        layer = layers[path]
        if not isinstance(layer, BaseTunerLayer):
            state[name] = getattr(layer, kind)
            continue
        base: Any = layer.get_base_layer()
        value = getattr(base, kind)
        for adapter in [] if layer.merged or layer.disable_adapters else layer.active_adapters:
            value = value + _change(layer, adapter, kind, value)
        state[name] = value.detach()
    plain.load_state_dict(state, assign=True)
    return plain


def _change(layer: Any, adapter: str, kind: str, like: torch.Tensor) -> Any:
    if adapter not in layer.scaling:
        return 0
    if kind == "weight":
        return layer.get_delta_weight(adapter).to(like)
    bias = getattr(layer.lora_B[adapter], "bias", None)
    return 0 if bias is None else (bias * layer.scaling[adapter]).to(like)


def write_beside(folder: Path, pipeline: Any) -> None:
    """Writes what the adapter was trained for, and a card that says how the model is opened."""
    if pipeline.adapter is not None:
        write_atomic(folder / METADATA_FILE, to_json(pipeline.adapter))
    write_atomic(folder / CARD, _card(pipeline))


def _card(pipeline: Any) -> str:
    backbone, adapter = pipeline.backbone, pipeline.adapter
    control = backbone.control_pipeline
    base = "" if adapter is None or ":" in adapter.base else f"base_model: {adapter.base}\n"
    if backbone.is_cached:
        use = (
            f"Stock diffusers opens it as a `{backbone.pipeline_class.__name__}` and draws with it after words alone: "
            "it is of the flavour cached, whose references are shown by keys and values that attention keeps."
        )
    elif not backbone.is_widened:
        use = f"A plain `{backbone.pipeline_class.__name__}`."
    elif control is not None:
        use = (
            f"Stock diffusers opens it as a `{control.__name__}`, for its patch embedding takes a condition beside the "
            "noisy latents. The control image is the canvas [reference | black], and the right half of what is drawn "
            "the result; guidance by the picture is not there."
        )
    else:
        use = (
            f"Stock diffusers opens it as a `{backbone.pipeline_class.__name__}` and cannot draw with it: its patch "
            "embedding takes a condition beside the noisy latents, for which diffusers has no pipeline of this family."
        )
    return (
        f"---\nlibrary_name: diffusers\npipeline_tag: image-to-image\n{base}---\n\n# A two-frame model\n\n"
        "Drawn with a reference picture and a prompt by `dsd.generate.two_frame.TwoFramePipeline"
        f".from_pretrained(FOLDER)` (Diffusion Self-Distillation, arXiv 2411.18616).\n\n{use}\n"
    )
