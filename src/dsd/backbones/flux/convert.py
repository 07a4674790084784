"""Weights of elsewhere as adapters: the published Diffusion Self-Distillation layout, and control LoRAs for FLUX.1.

The published transformer adds ``c_embedder(condition)`` to ``x_embedder(noisy)``, both linear. That is exactly one
linear layer over the concatenation of both inputs: weights side by side, the sum of the biases.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import FluxTransformer2DModel
from torch import Tensor

from dsd.backbones.adapter import AdapterMetadata, LowRank, fuse, save_adapter, save_full
from dsd.backbones.flux.lora import Lora, read_lora
from dsd.backbones.published import LORA_FILE, published_folder
from dsd.backbones.stored import Stored, opened
from dsd.errors import UserError

_EMBEDDING, _CONDITION = "x_embedder", "c_embedder"


@dataclass(frozen=True)
class Converted:
    """What was written.

    Attributes:
        layers: How many layers a low-rank adapter changes.
        different: Tensors, beside the embeddings, that the base has otherwise: with one there, the adapter holds a
            complete transformer.
    """

    layers: int
    different: tuple[str, ...] = ()


def convert_published(source: Path, base: Path, out: Path, metadata: AdapterMetadata) -> Converted:
    """Writes an adapter of a folder in the published layout.

    Args:
        source: With the transformer's folder and the LoRA file.
        base: The base's folder, of which the transformer is read.
        out: The adapter's folder.
        metadata: What is said of it; its rank is filled in.

    Raises:
        UserError: A part is missing or damaged, or is none of this base.
    """
    folder = published_folder(source)
    if folder is None:
        raise UserError(
            f'"{source}" is not in the published layout: it must hold a folder transformer/ and {LORA_FILE}; copy it '
            "again, whole"
        )
    with opened(folder) as published, _plain(base) as plain:
        _require_condition(published)
        lora = read_lora(source / LORA_FILE, plain.config)
        different = _different(published, plain)
        weight, bias = _embedding(published, lora.updates.pop(_EMBEDDING, None))
        if different or lora.replaced:
            kept = {name: published.tensor(name) for name in published if not name.startswith(_CONDITION)}
            kept |= lora.replaced | {f"{_EMBEDDING}.weight": weight, f"{_EMBEDDING}.bias": bias}
            _write_whole(kept, plain.config, lora.updates, out, metadata)
            return Converted(0, (*different, *lora.replaced))
        before = plain.tensor(f"{_EMBEDDING}.weight").float()
        change = weight.float() - torch.cat([before, torch.zeros_like(before)], dim=1)
        shift = bias.float() - plain.tensor(f"{_EMBEDDING}.bias").float()
    updates = {_EMBEDDING: LowRank.exact(change, shift), **lora.updates}
    save_adapter(out, updates, replace(metadata, rank=lora.rank))
    return Converted(len(updates))


def convert_lora(source: Path, base: Path, out: Path, metadata: AdapterMetadata) -> Converted:
    """Writes an adapter of a control LoRA for `FluxControlPipeline`; see `convert_published`.

    Raises:
        UserError: It is damaged, has another width than a control of one picture, or is none of this base.
    """
    with _plain(base) as plain:
        lora = read_lora(source, plain.config)
        _require_width(lora, plain, source)
        different = tuple(name for name, tensor in lora.replaced.items() if not _equal(tensor, plain.tensor(name)))
        if not different:
            save_adapter(out, lora.updates, replace(metadata, rank=lora.rank))
            return Converted(len(lora.updates))
        kept = {name: plain.tensor(name) for name in plain} | lora.replaced
        before = kept[f"{_EMBEDDING}.weight"]
        kept[f"{_EMBEDDING}.weight"] = torch.cat([before, torch.zeros_like(before)], dim=1)
        _write_whole(kept, plain.config, lora.updates, out, metadata)
    return Converted(0, different)


@contextmanager
def _plain(base: Path) -> Iterator[Stored]:
    """Opens a base's transformer, which must be one that draws after words alone."""
    folder = base / "transformer"
    if not folder.is_dir():
        raise UserError(f'the base "{base}" has no transformer/; give the folder or hub id of a whole model')
    with opened(folder) as plain:
        if f"{_EMBEDDING}.weight" not in plain:
            raise UserError(f'the base\'s "{folder}" has no {_EMBEDDING}.weight; give the folder of a whole model')
        inputs, outputs = plain.shape(f"{_EMBEDDING}.weight")[1], plain.shape("proj_out.weight")[0]
        if inputs != outputs:
            raise UserError(
                f'the base "{base}" takes pictures itself ({inputs} inputs a token, for {outputs} outputs); give one '
                "that draws after words alone, such as FLUX.1-dev"
            )
        yield plain


def _require_condition(published: Stored) -> None:
    for name in (_EMBEDDING, _CONDITION):
        for part in ("weight", "bias"):
            if f"{name}.{part}" not in published:
                raise UserError(
                    f'the transformer in "{published.folder}" cannot see a reference: it has no {name}.{part}; give '
                    "the published weights, whole"
                )
    shapes = [published.shape(f"{name}.weight") for name in (_EMBEDDING, _CONDITION)]
    if shapes[0] != shapes[1]:
        raise UserError(
            f'the transformer in "{published.folder}" has a {_CONDITION} of {shapes[1]}, but {_EMBEDDING} is '
            f"{shapes[0]}; give the published weights, whole"
        )


def _different(published: Stored, plain: Stored) -> tuple[str, ...]:
    """Names of tensors that are not the base's, once both have the coarser precision.

    Raises:
        UserError: One has a tensor that the other has not, or of another shape.
    """
    ours = {name for name in published if not name.startswith(_CONDITION)}
    for name in sorted(ours ^ set(plain)):
        lacking, having = (published, plain) if name not in ours else (plain, published)
        raise UserError(
            f'"{lacking.folder}" has no tensor {name}, which "{having.folder}" has; give the base that it was made of'
        )
    for name in sorted(ours):
        if published.shape(name) != plain.shape(name):
            raise UserError(
                f'"{published.folder}" does not fit the base: {name} is {published.shape(name)}, but '
                f'{plain.shape(name)} in "{plain.folder}"; give the base that it was made of'
            )
    return tuple(
        name
        for name in sorted(ours)
        if not name.startswith(f"{_EMBEDDING}.") and not _equal(published.tensor(name), plain.tensor(name))
    )


def _equal(one: Tensor, other: Tensor) -> bool:
    coarser = min(one.dtype, other.dtype, key=lambda dtype: (dtype.itemsize, dtype != torch.bfloat16))
    return torch.equal(one.to(coarser), other.to(coarser))


def _embedding(published: Stored, update: LowRank | None) -> tuple[Tensor, Tensor]:
    """Weight and bias of the widened patch embedding, in float32; a LoRA of the noisy half is added to that half."""
    halves = [published.tensor(f"{name}.weight").float() for name in (_EMBEDDING, _CONDITION)]
    bias = sum(published.tensor(f"{name}.bias").float() for name in (_EMBEDDING, _CONDITION))
    assert isinstance(bias, Tensor)
    if update is not None:
        halves[0] = halves[0] + update.up.float() @ update.down.float()
        bias = bias if update.bias is None else bias + update.bias.float()
    return torch.cat(halves, dim=1), bias


def _require_width(lora: Lora, plain: Stored, source: Path) -> None:
    inputs = plain.shape(f"{_EMBEDDING}.weight")[1]
    if _EMBEDDING not in lora.updates:
        raise UserError(
            f'"{source}" is a plain LoRA, which sees no picture: it does not change {_EMBEDDING}; give a control LoRA, '
            f"whose {_EMBEDDING} takes {2 * inputs} inputs"
        )
    width = lora.updates[_EMBEDDING].down.shape[1]
    if width != 2 * inputs:
        raise UserError(
            f'"{source}" has an {_EMBEDDING} of {width} inputs, but a control of one picture takes {2 * inputs}, twice '
            f"the base's {inputs}; give a control LoRA of that width"
        )


def _write_whole(
    tensors: dict[str, Tensor],
    config: Mapping[str, Any],
    updates: Mapping[str, LowRank],
    out: Path,
    metadata: AdapterMetadata,
) -> None:
    """A complete transformer: tensors as they are mapped from their files, only what a LoRA changes is copied."""
    channels = config.get("out_channels") or config["in_channels"]
    dtype = tensors["proj_out.weight"].dtype
    with init_empty_weights():
        transformer: Any = FluxTransformer2DModel.from_config(
            {**config, "in_channels": tensors[f"{_EMBEDDING}.weight"].shape[1], "out_channels": channels}
        )
    for name in updates:
        for part in ("weight", "bias"):
            if f"{name}.{part}" in tensors:
                tensors[f"{name}.{part}"] = tensors[f"{name}.{part}"].clone()
    for part in ("weight", "bias"):
        tensors[f"{_EMBEDDING}.{part}"] = tensors[f"{_EMBEDDING}.{part}"].to(dtype)
    transformer.load_state_dict(tensors, assign=True)
    fuse(transformer, updates, out)
    save_full(out, transformer, replace(metadata, rank=0))
