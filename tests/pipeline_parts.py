"""Two-frame pipelines of tiny random models: of each family, one with an adapter that changes what is drawn."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tiny
import torch
from torch import nn

from dsd.backbones.adapter import LowRank, save_adapter
from dsd.backbones.registry import load_backbone
from dsd.generate.two_frame import TwoFramePipeline
from dsd.sampling import Sampling

PROMPTS = ["a red cat at the beach", "a blue dog in the snow"]
SIZE = (32, 32)


@cache
def adapter(family: str) -> Path:
    base = tiny.FAMILIES[family]()
    folder, backbone = tiny.scratch() / f"pipelines-{family}", load_backbone(base, text=False, vae=False)
    transformer, name = backbone.transformer, backbone.layers.patch_embedding
    before = transformer.get_submodule(name)
    backbone.widen()
    after, generator = transformer.get_submodule(name), torch.Generator().manual_seed(1)
    change = torch.randn(after.weight.shape, generator=generator) * 0.2
    bias = None if before.bias is None else torch.randn(before.bias.shape, generator=generator) * 0.2
    updates = {name: LowRank.exact(change, bias)}
    for path, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and path.endswith(("attn.to_q", "attn.to_k")):
            down, up = (
                torch.randn(s, generator=generator) * 0.3 for s in ((2, layer.in_features), (layer.out_features, 2))
            )
            updates[path] = LowRank(down, up)
    metadata = tiny.metadata(
        base, family=family, rank=2, frame_size=SIZE, sampling=Sampling(steps=3, text_scale=1.6, image_scale=1.3)
    )
    save_adapter(folder, updates, metadata)
    return folder


def load(family: str, **settings: Any) -> TwoFramePipeline:
    pipe = TwoFramePipeline.from_pretrained(tiny.FAMILIES[family](), adapter(family), **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@cache
def shared(family: str) -> TwoFramePipeline:
    """For tests that leave it as it is."""
    return load(family)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


def draw(family: str, prompt: Any = PROMPTS[0], image: Any = None, **settings: Any) -> Any:
    settings = {"output_type": "latent", "generator": seeds(0)[0]} | settings
    result: Any = shared(family)(prompt, tiny.picture() if image is None else image, **settings)
    return result.images


def differ(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() > 1e-2)
