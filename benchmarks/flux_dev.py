"""A pipeline of FLUX.1-dev's shape with random weights, made where it computes; nothing is downloaded."""

from __future__ import annotations

import copy
from typing import Any

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from dsd.devices import inference_dtype
from dsd.generate.two_frame import TwoFramePipeline, pipeline_class
from dsd.models import resolve

_AUTOENCODER: dict[str, Any] = {
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16, "sample_size": 1024,
    "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False,
}  # fmt: skip


def flux_dev(device: str) -> TwoFramePipeline:
    """FLUX.1-dev's transformer and autoencoder, widened; the text encoders are as wide but two layers deep.

    Args:
        device: Where its weights are made, 23 GiB in bfloat16.
    """
    tokenizers: list[Any] = [
        AutoTokenizer.from_pretrained(f"{resolve('embedded:tiny-flux')}/{name}")
        for name in ("tokenizer", "tokenizer_2")
    ]
    clip, t5 = tokenizers
    clip.model_max_length = 77
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(inference_dtype(device))
    try:
        with torch.device(device):
            transformer = FluxTransformer2DModel(guidance_embeds=True)
            vae = AutoencoderKL(**_AUTOENCODER)
            text = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(clip), hidden_size=768, intermediate_size=3072, num_hidden_layers=2,
                    num_attention_heads=12, max_position_embeddings=77, bos_token_id=clip.bos_token_id,
                    eos_token_id=clip.eos_token_id, pad_token_id=clip.pad_token_id,
                )
            )  # fmt: skip
            text_2 = T5EncoderModel(
                T5Config(
                    vocab_size=len(t5), d_model=4096, d_kv=64, d_ff=10240, num_layers=2, num_heads=64,
                    feed_forward_proj="gated-gelu", is_encoder_decoder=False,
                )
            )  # fmt: skip
    finally:
        torch.set_default_dtype(before)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=256, max_image_seq_len=4096, base_shift=0.5, max_shift=1.15,
        shift=3.0,
    )  # fmt: skip
    pipeline = pipeline_class("flux")(scheduler, vae, text, clip, text_2, t5, transformer)
    pipeline.backbone.widen()
    for part in (transformer, vae, text, text_2):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def twin(pipeline: TwoFramePipeline) -> TwoFramePipeline:
    """The same pipeline again: modules of its own, and the weights of both are the same tensors."""
    stock: Any = pipeline
    parts = dict(stock.components)
    for name in ("transformer", "vae"):
        module = parts[name]
        shared = {id(one): one for one in (*module.parameters(), *module.buffers())}
        parts[name] = copy.deepcopy(module, shared)
    again = type(pipeline)(**parts)
    again.adapter = pipeline.adapter
    again.set_progress_bar_config(disable=True)
    return again
