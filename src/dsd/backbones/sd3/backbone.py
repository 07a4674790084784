"""Stable Diffusion 3 and 3.5: stock diffusers networks, driven with spatial latents; frames stand side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusion3Pipeline
from jaxtyping import Float
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.backbones.sd3.layers import LAYERS
from dsd.backbones.stock import StockBackbone, apart, side_by_side
from dsd.errors import UserError

_TIMESTEPS = 1000  # the transformer counts noise in so many steps


class SD3Backbone(StockBackbone):
    """The components of a `StableDiffusion3Pipeline`."""

    family = "sd3"
    layers = LAYERS
    pipeline_class = StableDiffusion3Pipeline
    vae_class = AutoencoderKL
    text_components = (
        "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3",
    )  # fmt: skip
    optional_text = ("text_encoder_3", "tokenizer_3")
    patch = 2

    def _encoded(self, prompts: list[list[str]], max_tokens: int) -> Text:
        """Tokens of both CLIPs followed by ``max_tokens`` of T5's, and both CLIPs' pooled vectors; there is no mask."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            *[*prompts, None, None][:3],
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=max_tokens,
        )
        return Text(tokens, pooled)

    def further_text_tokens(self, encoders: Mapping[str, Any]) -> int:
        """Those of both CLIPs, which stand beside each other."""
        return encoders["text_encoder"].config.max_position_embeddings

    def arguments(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | Float[Tensor, " b"] | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer.

        Raises:
            UserError: The canvas is larger than the model's table of positions.
        """
        dtype = self.dtype
        latents, condition = self.with_condition(latents, condition)
        canvas = side_by_side(latents)
        self._check_positions(*canvas.shape[-2:])
        if condition is not None:
            canvas = torch.cat([canvas, side_by_side(condition)], dim=1)
        return {
            "hidden_states": canvas.to(dtype),
            "timestep": (sigma * _TIMESTEPS).to(dtype),
            "pooled_projections": None if text.pooled is None else text.pooled.to(dtype),
            "encoder_hidden_states": text.tokens.to(dtype),
        }

    def unpacked(self, predicted: Tensor, like: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """The canvas as frames."""
        return apart(predicted, like.shape[1])

    def _check_positions(self, height: int, width: int) -> None:
        most = self.transformer.config["pos_embed_max_size"]
        if max(height, width) // self.patch > most:
            pixels, step = most * self.pixels_per_token, self.pixels_per_latent
            raise UserError(
                f"the frames side by side are {height * step}x{width * step} pixels, but this model has positions for "
                f"{pixels}x{pixels}; give a smaller frame size, or fewer frames"
            )


BACKBONE = SD3Backbone
