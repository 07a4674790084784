"""Where things are in `FluxTransformer2DModel`."""

from __future__ import annotations

from typing import Any

from dsd.backbones.protocol import Layers

_OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "text_encoder": (
        "CLIPTextModel",
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    ),
    "text_encoder_2": (
        "T5EncoderModel",
        {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64,
         "feed_forward_proj": "gated-gelu"},
    ),
    "vae": (
        "AutoencoderKL",
        {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
         "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 16,
         "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159},
    ),
}  # fmt: skip
LAYERS = Layers(
    patch_embedding="x_embedder",
    attention=(".attn.",),  # exactly the list of the published checkpoint
    feed_forward=(".ff.net.", ".ff_context.net."),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    not_matrices=("x_embedder", "context_embedder", "transformer.proj_out", "time_text_embed", ".linear."),
    rotary="pos_embed",
    published={
        "black-forest-labs/FLUX.1-dev": {
            **_OTHERS,
            "transformer": ("FluxTransformer2DModel", {"guidance_embeds": True}),
        },
        "black-forest-labs/FLUX.1-schnell": {**_OTHERS, "transformer": ("FluxTransformer2DModel", {})},
    },
)
