"""Tiny random models on disk, in the stock layouts of their libraries; each is made once a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from diffusers.models.normalization import AdaLayerNormContinuous
from PIL import Image
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.backbones.adapter import AdapterMetadata, LowRank
from dsd_world.tokenizers import clip_tokenizer, t5_tokenizer

TEXT_TOKENS = 8
PIXELS_PER_TOKEN = 8
LATENT_CHANNELS = 4
_THREE_LEVELS: dict[str, Any] = {
    "block_out_channels": (8, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}


@cache
def scratch() -> Path:
    """A folder for this process, removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="dsd-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def schnell() -> str:
    """A folder like FLUX.1-schnell's: no guidance embedding, no shift."""
    return _save_flux("schnell", guidance=False, dynamic_shift=False)


@cache
def dev() -> str:
    """A folder like FLUX.1-dev's: guidance embedding, shift by resolution."""
    return _save_flux("dev", guidance=True, dynamic_shift=True)


def picture(size: tuple[int, int] = (32, 32), seed: int = 0) -> Image.Image:
    """A picture of (height, width) with smooth colours of its own."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (4, 4, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(small.numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)


def random_updates(transformer: nn.Module, *, rank: int = 4, bias: bool = False, seed: int = 1) -> dict[str, LowRank]:
    """A random adapter for a transformer that is not widened: attention layers, and the widened patch embedding."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.2

    updates = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, nn.Linear) and name == "x_embedder":
            updates[name] = LowRank.exact(
                random(layer.out_features, 2 * layer.in_features), random(layer.out_features) if bias else None
            )
        elif isinstance(layer, nn.Linear) and ".attn." in name:
            layer_rank = rank if name.endswith("to_q") else rank - 1
            updates[name] = LowRank(random(layer_rank, layer.in_features), random(layer.out_features, layer_rank))
    return updates


def metadata(base: str = "tiny", **changes: object) -> AdapterMetadata:
    """What a tiny adapter says of itself."""
    settings: dict[str, object] = {
        "family": "flux", "base": base, "base_revision": "0", "rank": 4, "max_sequence_length": TEXT_TOKENS,
    }  # fmt: skip
    return AdapterMetadata(**(settings | changes))  # pyright: ignore[reportArgumentType]


def _save_flux(name: str, *, guidance: bool, dynamic_shift: bool) -> str:
    torch.manual_seed(0)
    t5: Any = t5_tokenizer(48)
    clip: Any = clip_tokenizer(48)
    text = CLIPTextConfig(
        vocab_size=len(clip), hidden_size=16, intermediate_size=16, projection_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=48, bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
    )  # fmt: skip
    text_2 = T5Config(vocab_size=len(t5), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    vae = AutoencoderKL(
        **_THREE_LEVELS, layers_per_block=1, latent_channels=LATENT_CHANNELS,
        norm_num_groups=4, scaling_factor=0.7, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=4 * LATENT_CHANNELS, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=guidance,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    _make_lively(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=dynamic_shift, base_image_seq_len=16, max_image_seq_len=64, base_shift=0.5, max_shift=1.15
    )
    pipeline = FluxPipeline(scheduler, vae, CLIPTextModel(text), clip, T5EncoderModel(text_2), t5, transformer)
    pipeline.save_pretrained(scratch() / name)
    return str(scratch() / name)


def _make_lively(transformer: nn.Module) -> None:
    """Larger random weights, so that text, image and sigma all show in the result."""
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5)
                nn.init.normal_(module.bias, std=0.1)
            if isinstance(module, AdaLayerNormContinuous):
                nn.init.normal_(module.linear.weight, std=0.1)
