"""What a recipe costs, computed from the real models' configs: every layer is built on the meta device and counted.

The figures are estimates to plan with, not promises: the arithmetic of matrix products and attention is exact,
activations are a rule of thumb, and a chat model's share of the curation is left out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsd.errors import UserError
from dsd.models import resolve
from dsd.train.adapter import PATCH_EMBEDDING, attach, attach_all
from dsd.train.config import TrainConfig

FLUX_DEV = "black-forest-labs/FLUX.1-dev"
_ACTIVATIONS_PER_BLOCK = 34
"""Values a transformer block keeps per token and channel (Korthikanti et al. 2022, arXiv 2205.05198, eq. 1)."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A text-to-image model on the meta device.

    Attributes:
        transformer: Not widened.
        text_parameters: Of all text encoders.
        vae_parameters: Of the autoencoder.
        pixels_per_token: Height and width in pixels of one image token.
        latent_values: Values a picture has in latent space, per pixel.
    """

    transformer: nn.Module
    text_parameters: int
    vae_parameters: int
    pixels_per_token: int
    latent_values: float

    @property
    def parameters(self) -> int:
        return _count(self.transformer)

    @property
    def config(self) -> Any:
        return self.transformer.config


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Estimates for one training run.

    Attributes:
        trained_parameters: Weights that the optimizer moves.
        memory: Bytes on each device.
        operations: Floating-point operations of the whole run.
        cache: Bytes of cached latents and texts per thousand pairs, at most.
    """

    trained_parameters: int
    memory: dict[str, float]
    operations: float
    cache: float


def shape_of(base: str) -> Shape:
    """Builds a model's components on the meta device, from its configs alone.

    Args:
        base: `embedded:NAME`, a folder, or a hub id. FLUX.1-dev, whose configs are gated, is known without the hub.

    Raises:
        UserError: No configs are found, or the family is not FLUX.
    """
    with torch.device("meta"):
        parts = _flux_dev() if base == FLUX_DEV else _from_folder(base)
    transformer, texts, vae = parts
    halvings = len(vae.config.block_out_channels) - 1
    return Shape(
        transformer=transformer,
        text_parameters=sum(_count(text) for text in texts),
        vae_parameters=_count(vae),
        pixels_per_token=2 * 2**halvings,
        latent_values=vae.config.latent_channels / 4**halvings,
    )


def forward_operations(transformer: nn.Module, *, image_tokens: int, text_tokens: int) -> float:
    """Floating-point operations of one evaluation for one sample: matrix products and attention."""
    total = 0.0
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear):
            total += 2 * module.in_features * module.out_features * _tokens(name, image_tokens, text_tokens)
    config: Any = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    return total + 4 * (image_tokens + text_tokens) ** 2 * width * _blocks(config)


def training_cost(config: TrainConfig, shape: Shape, *, frame: tuple[int, int], devices: int) -> Cost:
    """Estimates a training run.

    Args:
        config: Of the run.
        shape: Of its base; its transformer is widened and gets the adapter, so use it once.
        frame: (height, width) of a frame in pixels.
        devices: That share the batch.
    """
    image_tokens = 2 * frame[0] * frame[1] // shape.pixels_per_token**2
    text_tokens = config.max_sequence_length
    frozen_bytes = 2 if config.mixed_precision == "bf16" else 4
    forward = forward_operations(shape.transformer, image_tokens=image_tokens, text_tokens=text_tokens)
    total = shape.parameters
    trained = _trained(config, shape.transformer)
    # Forward and gradients of activations; recomputation; gradients of the trained weights, as a share of all.
    passes = 2 + config.gradient_checkpointing + min(1.0, trained / total)
    samples = max(1, config.batch_size // (config.gradient_accumulation * devices))
    width = shape.config.num_attention_heads * shape.config.attention_head_dim
    token_bytes = (image_tokens + text_tokens) * width * frozen_bytes * samples
    kept = _blocks(shape.config) + _ACTIVATIONS_PER_BLOCK
    if not config.gradient_checkpointing:
        kept = _blocks(shape.config) * _ACTIVATIONS_PER_BLOCK
    text_width = shape.config.joint_attention_dim
    return Cost(
        trained_parameters=trained,
        memory={
            "transformer": (total - trained if config.full else total) * frozen_bytes,
            "trained weights, gradients, optimizer": trained * 16.0 + (trained * 4.0 if config.ema_decay else 0.0),
            "activations": float(kept * token_bytes),
        },
        operations=forward * passes * config.batch_size * config.steps,
        cache=1000 * 4 * (2 * frame[0] * frame[1] * shape.latent_values + text_tokens * text_width),
    )


def _trained(config: TrainConfig, transformer: nn.Module) -> int:
    old = transformer.get_submodule(PATCH_EMBEDDING)
    if isinstance(old, nn.Linear):
        transformer.set_submodule(PATCH_EMBEDDING, nn.Linear(2 * old.in_features, old.out_features, device="meta"))
    if config.full:
        adapter = attach_all(transformer)
    else:
        adapter = attach(transformer, rank=config.rank, targets=config.lora_targets, seed=0)
    return sum(parameter.numel() for parameter in adapter.parameters.values())


def _tokens(name: str, image: int, text: int) -> int:
    """How many tokens a linear layer of FLUX works on."""
    if "norm" in name or name.startswith("time_text_embed"):
        return 1
    if "_context" in name or "context_embedder" in name or ".attn.add_" in name or ".to_add_out" in name:
        return text
    return image + text if name.startswith("single_transformer_blocks") else image


def _blocks(config: Any) -> int:
    return config.num_layers + config.num_single_layers


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _flux_dev() -> tuple[nn.Module, list[nn.Module], Any]:
    import diffusers
    from diffusers import FluxTransformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    clip = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    t5 = T5Config(d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    autoencoder: Any = diffusers.AutoencoderKL  # its annotations say tuple[str], for any number of them
    vae = autoencoder(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    return FluxTransformer2DModel(guidance_embeds=True), [CLIPTextModel(clip), T5EncoderModel(t5)], vae


def _from_folder(base: str) -> tuple[nn.Module, list[nn.Module], Any]:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import AutoConfig, CLIPTextModel, T5EncoderModel

    folder = Path(resolve(base))
    index = folder / "model_index.json"
    if not index.is_file():
        raise UserError(f'no configs of "{base}" here; give a local model folder, an embedded model or {FLUX_DEV}')
    family = json.loads(index.read_text())["_class_name"]
    if not family.startswith("Flux"):
        raise UserError(f'"{base}" is a {family}; costs are known for FLUX models only')
    networks: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": T5EncoderModel}
    texts = [network(AutoConfig.from_pretrained(folder / name)) for name, network in networks.items()]
    transformer: Any = FluxTransformer2DModel.from_config(_json(folder / "transformer"))
    return transformer, texts, AutoencoderKL.from_config(_json(folder / "vae"))


def _json(component: Path) -> dict[str, Any]:
    return json.loads((component / "config.json").read_text())
