"""Tiny random models on disk, in the stock layouts of their libraries; each is made once a process."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.normalization import AdaLayerNormContinuous
from PIL import Image
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5EncoderModel,
)

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


@cache
def sd3() -> str:
    """A folder like Stable Diffusion 3.5 medium's: three text encoders, dual attention, a constant shift."""
    torch.manual_seed(0)
    t5: Any = t5_tokenizer(48)
    clip: Any = clip_tokenizer(48)
    text = CLIPTextConfig(
        vocab_size=len(clip), hidden_size=8, intermediate_size=16, projection_dim=8, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=48, bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
    )  # fmt: skip
    transformer = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, num_layers=2,
        attention_head_dim=16, num_attention_heads=2, joint_attention_dim=16, caption_projection_dim=32,
        pooled_projection_dim=16, pos_embed_max_size=32, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    _make_lively(transformer)
    texts = [CLIPTextModelWithProjection(text), CLIPTextModelWithProjection(text), T5EncoderModel(_t5_config(t5))]
    pipeline = StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0), _autoencoder(), texts[0], clip, texts[1], clip,
        texts[2], t5,
    )  # fmt: skip
    pipeline.save_pretrained(scratch() / "sd3")
    return str(scratch() / "sd3")


@cache
def flux2() -> str:
    """A folder like FLUX.2 klein's: one Qwen3, no biases, latents by the statistics of a batch norm."""
    torch.manual_seed(0)
    tokenizer = _qwen_tokenizer()
    text = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=28, num_attention_heads=2,
        num_key_value_heads=1, head_dim=4, max_position_embeddings=512,
    )  # fmt: skip
    vae = AutoencoderKLFlux2(
        **_THREE_LEVELS, layers_per_block=1, latent_channels=LATENT_CHANNELS, norm_num_groups=4,
        mid_block_add_attention=False,
    )  # fmt: skip
    with torch.no_grad():
        vae.bn.running_mean.uniform_(-0.5, 0.5)
        vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS, num_layers=1, num_single_layers=2, attention_head_dim=16,
        num_attention_heads=2, joint_attention_dim=24, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )  # fmt: skip
    _make_lively(transformer)
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = Flux2KleinPipeline(scheduler, vae, Qwen3ForCausalLM(text), tokenizer, transformer)
    pipeline.save_pretrained(scratch() / "flux2")
    return str(scratch() / "flux2")


FAMILIES = {"flux": dev, "sd3": sd3, "flux2": flux2}
"""A tiny random member of each family."""


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
    text_2 = _t5_config(t5)
    vae = _autoencoder()
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


def _t5_config(tokenizer: Any) -> T5Config:
    return T5Config(vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        **_THREE_LEVELS, layers_per_block=1, latent_channels=LATENT_CHANNELS,
        norm_num_groups=4, scaling_factor=0.7, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False,
    )  # fmt: skip


def _qwen_tokenizer() -> Any:
    """Letters, the tokens that every Qwen knows, and a chat template."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,Ġ"
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    vocab = {token: number for number, token in enumerate((*special, *letters))}
    tokenizer = Qwen2Tokenizer(
        vocab=vocab, merges=[], unk_token="<|endoftext|>", pad_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    tokenizer.chat_template = (
        "{% for message in messages %}<|im_start|>{{ message['content'] }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>{% endif %}"
    )
    return tokenizer


def _make_lively(transformer: nn.Module) -> None:
    """Larger random weights, so that text, image and sigma all show in the result."""
    with torch.no_grad():
        for module in transformer.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1.5 * module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.normal_(module.bias, std=0.1)
            if isinstance(module, AdaLayerNormContinuous):
                nn.init.normal_(module.linear.weight, std=0.1)
