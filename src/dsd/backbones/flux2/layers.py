"""Where things are in `Flux2Transformer2DModel`."""

from __future__ import annotations

from typing import Any

from dsd.backbones.protocol import Layers

_KLEIN_4B: dict[str, tuple[str, dict[str, Any]]] = {
    "transformer": (
        "Flux2Transformer2DModel",
        {"in_channels": 128, "num_layers": 5, "num_single_layers": 20, "attention_head_dim": 128,
         "num_attention_heads": 24, "joint_attention_dim": 7680, "guidance_embeds": False},
    ),
    "text_encoder": (
        "Qwen3ForCausalLM",
        {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32,
         "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "tie_word_embeddings": True},
    ),
    "vae": ("AutoencoderKLFlux2", {}),
}  # fmt: skip
LAYERS = Layers(
    patch_embedding="x_embedder",
    attention=(".attn.",),
    feed_forward=(".ff.linear_", ".ff_context.linear_"),
    blocks=("transformer_blocks", "single_transformer_blocks"),
    not_matrices=(
        "x_embedder", "context_embedder", "transformer.proj_out", "time_guidance_embed", "modulation", ".linear.",
    ),
    rotary="pos_embed",
    published={
        "black-forest-labs/FLUX.2-klein-base-4B": _KLEIN_4B,
        "black-forest-labs/FLUX.2-klein-4B": _KLEIN_4B,
    },
)  # fmt: skip
