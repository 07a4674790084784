"""FLUX.1 in the names of Black Forest Labs, which ComfyUI loads.

A layer there is one layer of diffusers, or several whose outputs stand one after another. ComfyUI reads the number of
blocks and the width of `img_in`, which is doubled here, from the file itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from dsd.backbones.adapter import LowRank
from dsd.errors import UserError

MODEL_FILE = "flux1-dsd.safetensors"
"""Goes to ComfyUI's folder models/diffusion_models."""
LORA_FILE = "flux1-dsd-lora.safetensors"
"""Goes to ComfyUI's folder models/loras."""

ONCE = {
    "img_in": ("x_embedder",),
    "txt_in": ("context_embedder",),
    "time_in.in_layer": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.out_layer": ("time_text_embed.timestep_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "guidance_in.in_layer": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.out_layer": ("time_text_embed.guidance_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
    "final_layer.adaLN_modulation.1": ("norm_out.linear",),
}
DOUBLE = {
    "img_mod.lin": ("norm1.linear",),
    "txt_mod.lin": ("norm1_context.linear",),
    "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "img_attn.norm.query_norm": ("attn.norm_q",),
    "img_attn.norm.key_norm": ("attn.norm_k",),
    "txt_attn.norm.query_norm": ("attn.norm_added_q",),
    "txt_attn.norm.key_norm": ("attn.norm_added_k",),
    "img_attn.proj": ("attn.to_out.0",),
    "txt_attn.proj": ("attn.to_add_out",),
    "img_mlp.0": ("ff.net.0.proj",),
    "img_mlp.2": ("ff.net.2",),
    "txt_mlp.0": ("ff_context.net.0.proj",),
    "txt_mlp.2": ("ff_context.net.2",),
}
SINGLE = {
    "modulation.lin": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "norm.query_norm": ("attn.norm_q",),
    "norm.key_norm": ("attn.norm_k",),
}
"""Layers there -> layers of diffusers: those that are there once, in each double block, and in each single block."""
_SWAPPED = "final_layer.adaLN_modulation.1"  # (shift, scale) there, (scale, shift) in diffusers
_EMBEDDING = "x_embedder"


def layer_names(double_blocks: int, single_blocks: int) -> dict[str, tuple[str, ...]]:
    """Layers there -> layers of diffusers, for so many blocks."""
    names: dict[str, tuple[str, ...]] = dict(ONCE)
    for there, here, count, layers in (
        ("double_blocks", "transformer_blocks", double_blocks, DOUBLE),
        ("single_blocks", "single_transformer_blocks", single_blocks, SINGLE),
    ):
        for number in range(count):
            for name, parts in layers.items():
                names[f"{there}.{number}.{name}"] = tuple(f"{here}.{number}.{part}" for part in parts)
    return names


def model_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A whole transformer's tensors under their names there.

    Args:
        tensors: By their names in diffusers. They are taken out of it one by one, so that two models of 24 GB are not
            held at once.

    Raises:
        UserError: There is one that has no name there.
    """
    renamed = {}
    for there, here in layer_names(_blocks(tensors, "transformer_blocks"), _blocks(tensors, "single_")).items():
        for part in ("weight", "bias"):
            found = [tensors.pop(f"{name}.{part}") for name in here if f"{name}.{part}" in tensors]
            if found:
                name = f"{there}.scale" if there.endswith("_norm") else f"{there}.{part}"
                joined = torch.cat(found) if len(found) > 1 else found[0]
                renamed[name] = _swapped(joined) if there == _SWAPPED else joined
    if tensors:
        raise UserError(
            f"ComfyUI has no name for the weights of {min(tensors)}; give a plain transformer of FLUX.1, or --form "
            "transformer"
        )
    return renamed


def lora_tensors(updates: Mapping[str, LowRank]) -> dict[str, Tensor]:
    """Low-rank changes as ComfyUI's LoRA loader reads them: by the names of diffusers, which it knows.

    Keys of its own say what diffusers' cannot: that `img_in` is widened (``reshape_weight``), and changes of biases
    (``diff_b``), those by the names there.

    Args:
        updates: By the names of diffusers' layers.

    Raises:
        UserError: A bias changes of a layer that is a part of one there whose other parts do not change.
    """
    tensors = {}
    for name, update in updates.items():
        key = f"transformer.{name}"
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = update.stored()
        if name == _EMBEDDING:
            tensors[f"{key}.reshape_weight"] = torch.tensor([update.up.shape[0], update.down.shape[1]])
    biases = {name: update.bias for name, update in updates.items() if update.bias is not None and update.bias.any()}
    for there, here in layer_names(_blocks(updates, "transformer_blocks"), _blocks(updates, "single_")).items():
        if not any(name in biases for name in here):
            continue
        if lost := [name for name in here if name not in updates]:
            raise UserError(
                f"the adapter changes a bias of {there} but not that of {lost[0]} in it, which ComfyUI's LoRA loader "
                "cannot; give --form comfyui"
            )
        bias = torch.cat([biases.get(name, torch.zeros_like(updates[name].up[:, 0])) for name in here])
        tensors[f"diffusion_model.{there}.diff_b"] = _swapped(bias) if there == _SWAPPED else bias
    return tensors


def _swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _blocks(names: Iterable[str], prefix: str) -> int:
    numbers = (name.split(".")[1] for name in names if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers), default=-1)
