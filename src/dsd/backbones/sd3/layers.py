"""Where things are in `SD3Transformer2DModel`."""

from __future__ import annotations

from typing import Any

from dsd.backbones.protocol import Layers

_SD3: dict[str, Any] = {
    "sample_size": 128, "patch_size": 2, "in_channels": 16, "out_channels": 16, "attention_head_dim": 64,
    "joint_attention_dim": 4096, "pooled_projection_dim": 2048,
}  # fmt: skip
_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "text_encoder": (
        "CLIPTextModelWithProjection",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
         "projection_dim": 768},
    ),
    "text_encoder_2": (
        "CLIPTextModelWithProjection",
        {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
         "projection_dim": 1280},
    ),
    "text_encoder_3": (
        "T5EncoderModel",
        {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
         "feed_forward_proj": "gated-gelu"},
    ),
    "vae": (
        "AutoencoderKL",
        {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
         "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
         "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 1.5305, "shift_factor": 0.0609},
    ),
}  # fmt: skip
LAYERS = Layers(
    patch_embedding="pos_embed.proj",
    attention=(".attn.", ".attn2."),
    feed_forward=(".ff.net.", ".ff_context.net."),
    blocks=("transformer_blocks",),
    not_matrices=("pos_embed", "context_embedder", "transformer.proj_out", "time_text_embed", ".linear."),
    published={
        "stabilityai/stable-diffusion-3-medium-diffusers": {
            **_OTHERS,
            "transformer": ("SD3Transformer2DModel", {**_SD3, "num_layers": 24, "num_attention_heads": 24,
                            "caption_projection_dim": 1536, "pos_embed_max_size": 192}),
        },
        "stabilityai/stable-diffusion-3.5-medium": {
            **_OTHERS,
            "transformer": ("SD3Transformer2DModel", {**_SD3, "num_layers": 24, "num_attention_heads": 24,
                            "caption_projection_dim": 1536, "pos_embed_max_size": 384, "qk_norm": "rms_norm",
                            "dual_attention_layers": tuple(range(13))}),
        },
        "stabilityai/stable-diffusion-3.5-large": {
            **_OTHERS,
            "transformer": ("SD3Transformer2DModel", {**_SD3, "num_layers": 38, "num_attention_heads": 38,
                            "caption_projection_dim": 2432, "pos_embed_max_size": 192, "qk_norm": "rms_norm"}),
        },
    },
)  # fmt: skip
