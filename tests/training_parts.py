"""A random tiny FLUX on disk and a handful of drawn pairs, for the tests of training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.train.config import TrainConfig
from dsd.world.tokenizers import clip_tokenizer, t5_tokenizer

FRAME = 32
_COLOURS = ("red", "green", "blue", "yellow")


@dataclass(frozen=True, kw_only=True)
class SimplePair:
    """A training pair without provenance."""

    id: str
    grid: str
    reference: Image.Image
    target: Image.Image
    target_caption: str


def simple_pairs(count: int = 12, per_grid: int = 2, size: int = FRAME) -> list[SimplePair]:
    """Pairs of two-coloured squares; the same colours within a grid."""

    def picture(grid: int, place: int) -> Image.Image:
        image = Image.new("RGB", (size, size), _COLOURS[grid % 4])
        corner = place * size // 4
        image.paste((40 * grid % 255, 90, 30 * grid % 255), (corner, corner, corner + size // 2, corner + size // 2))
        return image

    return [
        SimplePair(
            id=f"pair-{number:03d}",
            grid=f"grid-{number // per_grid:03d}",
            reference=picture(number // per_grid, number % per_grid),
            target=picture(number // per_grid, number % per_grid + 1),
            target_caption=f"a {_COLOURS[number // per_grid % 4]} cat at the beach",
        )
        for number in range(count)
    ]


def save_random_flux(folder: Path, *, guidance: bool = False, seed: int = 0) -> str:
    """Writes a random FLUX of width 32 as a stock folder; ``guidance`` gives it FLUX.1-dev's guidance embedding."""
    torch.manual_seed(seed)
    t5, clip = t5_tokenizer(48), clip_tokenizer(48)
    text = CLIPTextConfig(
        vocab_size=len(clip), hidden_size=16, intermediate_size=16, projection_dim=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=48, bos_token_id=clip.bos_token_id,
        eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
    )  # fmt: skip
    text_2 = T5Config(vocab_size=len(t5), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, dropout_rate=0.0)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1, latent_channels=4, norm_num_groups=4,
        scaling_factor=0.7, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False,
        mid_block_add_attention=False,
    )  # fmt: skip
    transformer = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=64)
    pipeline = FluxPipeline(scheduler, vae, CLIPTextModel(text), clip, T5EncoderModel(text_2), t5, transformer)
    pipeline.save_pretrained(folder)
    return str(folder)


def small_config(base: str, **changes: object) -> TrainConfig:
    """A run of seconds: four steps of four pairs."""
    settings: dict[str, object] = {
        "base": base, "rank": 4, "steps": 4, "batch_size": 4, "warmup": 1, "max_sequence_length": 8, "held_out": 1,
        "sample_every": 4, "sample_steps": 2, "checkpoint_every": 2, "ema_decay": 0.5,
    }  # fmt: skip
    return TrainConfig(**(settings | changes))  # pyright: ignore[reportArgumentType]
