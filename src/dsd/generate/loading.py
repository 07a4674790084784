"""A text-to-image model and the adapter that made it a two-frame model, read as one pipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from dsd.backbones.adapter import (
    FULL_FOLDER,
    METADATA_FILE,
    WEIGHTS_FILE,
    AdapterMetadata,
    apply_adapter,
    is_full,
    load_adapter,
    load_metadata,
    require_family,
    require_plain,
    warn_of_another_base,
)
from dsd.backbones.registry import backbone_class, family_of
from dsd.errors import UserError
from dsd.models import resolve
from dsd.weights import dtype_of, load, load_pipeline


def loaded(
    pipeline_class: Any,
    from_pretrained: Callable[..., Any],
    base: str,
    adapter: str | None,
    *,
    fuse: bool,
    **kwargs: Any,
) -> tuple[Any, AdapterMetadata | None]:
    """Reads a pipeline and what its adapter was trained for, None where it says nothing.

    Args:
        pipeline_class: Of what is made.
        from_pretrained: The stock loading of that class.
        base: See `dsd.generate.two_frame.TwoFramePipeline.from_pretrained`, as all that follow.
        adapter: See there.
        fuse: See there.
        **kwargs: See there.

    Raises:
        UserError: See there.
    """
    dtype, family = _dtype(kwargs), family_of(base)
    backbone = backbone_class(family)
    folder = None if adapter is None else resolve(adapter)
    metadata = None if folder is None else load_metadata(folder)
    if folder is not None and metadata is not None:
        require_family(metadata, family, folder)
        warn_of_another_base(metadata, base, folder)
        if is_full(folder):
            one = dtype_of("transformer", dtype)
            kwargs["transformer"] = load(backbone.transformer_class(), folder, subfolder=FULL_FOLDER, dtype=one)
    pipeline = load_pipeline(pipeline_class, resolve(base), from_pretrained, dtype=dtype, **kwargs)
    _require_whole(pipeline)
    if folder is not None and not is_full(folder):
        _adapt(pipeline, backbone.from_pipeline(pipeline), folder, fuse=fuse)
    if metadata is None and (Path(resolve(base)) / METADATA_FILE).is_file():
        metadata = load_metadata(resolve(base))
    if metadata is not None and metadata.film.is_cached:
        backbone.from_pipeline(pipeline).prepare("cached")  # processors are no weights, and come with none
    return pipeline, metadata


def _adapt(pipeline: Any, backbone: Any, folder: str, *, fuse: bool) -> None:
    """Adds a low-rank adapter to the weights, or beside them."""
    if fuse:
        apply_adapter(backbone, folder)
        return
    _, metadata = load_adapter(folder)  # refuses what diffusers would take
    require_plain(backbone)
    backbone.prepare(metadata.film.flavour)
    pipeline.load_lora_weights(folder, weight_name=WEIGHTS_FILE)


def _dtype(kwargs: dict[str, Any]) -> Any:
    """Takes the precision out of what is passed on, one or one a component; `torch_dtype` is its old name."""
    given = [kwargs.pop(name) for name in ("dtype", "torch_dtype") if name in kwargs]
    dtype = next((one for one in given if one is not None), torch.float32)
    if isinstance(dtype, Mapping):
        return {component: _one_dtype(one) for component, one in dtype.items()}
    return _one_dtype(dtype)


def _one_dtype(dtype: Any) -> torch.dtype:
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype):
        raise UserError(f"dtype is {dtype!r}, but must be one of torch's, such as torch.bfloat16")
    return found


def _require_whole(pipeline: Any) -> None:
    for name in ("transformer", "vae", "scheduler"):
        if getattr(pipeline, name) is None:
            raise UserError(f"the model was loaded without its {name}, which it draws with; leave out {name}=None")
