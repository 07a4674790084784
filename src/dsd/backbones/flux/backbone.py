"""FLUX.1: stock diffusers networks, driven with spatial latents; frames stand side by side on one canvas."""

from __future__ import annotations

from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxControlPipeline, FluxPipeline
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from dsd.backbones import cached
from dsd.backbones.flux.attention import FluxKeepingAttnProcessor
from dsd.backbones.flux.layers import LAYERS
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone, apart, side_by_side

PATCH = 2  # a token is 2x2 latents


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h/2*w/2 c*4"]:
    """Tokens of 2x2 latents, row by row."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)


def unpack(tokens: Float[Tensor, "b h/2*w/2 c*4"], height: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `pack`, for latents of the given height."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // PATCH, p=PATCH, q=PATCH)


class FluxBackbone(StockBackbone):
    """The components of a `FluxPipeline`."""

    family = "flux"
    layers = LAYERS
    pipeline_class = FluxPipeline
    vae_class = AutoencoderKL
    text_components = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    patch = PATCH
    control_pipeline = FluxControlPipeline
    keeping = MappingProxyType(dict.fromkeys(LAYERS.blocks, FluxKeepingAttnProcessor))

    def _encoded(self, prompts: list[list[str]], max_tokens: int) -> Text:
        """T5 tokens (FLUX has no text mask) and the pooled CLIP vector."""
        tokens, pooled, _ = self.pipeline.encode_prompt(
            prompts[0], *prompts[1:] or [None], device=self.device, max_sequence_length=max_tokens
        )
        return Text(tokens, pooled)

    def arguments(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | Float[Tensor, " b"] | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer; a ControlNet of the family takes the same.

        Positions run over the rows and columns of the whole canvas, as in the stock pipelines.
        """
        dtype = self.dtype
        latents, condition = self.with_condition(latents, condition)
        canvas = side_by_side(latents)
        tokens = pack(canvas)
        if condition is not None:
            tokens = torch.cat([tokens, pack(side_by_side(condition))], dim=-1)
        image_ids, text_ids = _positions(
            canvas.shape[-2] // PATCH, canvas.shape[-1] // PATCH, text.tokens.shape[1], latents.device, dtype
        )
        return {
            "hidden_states": tokens.to(dtype),
            "timestep": sigma.to(dtype),
            "guidance": self.embedded_guidance(guidance, latents),
            "pooled_projections": None if text.pooled is None else text.pooled.to(dtype),
            "encoder_hidden_states": text.tokens.to(dtype),
            "txt_ids": text_ids,
            "img_ids": image_ids,
        }

    def given_arguments(self, given: Float[Tensor, "b r c h w"]) -> dict[str, Any]:
        """See the base class; columns count down from those of the frames to draw, as side by side on a canvas."""
        dtype, canvas, config = self.dtype, side_by_side(given), self.transformer.config
        rows, columns = (side // PATCH for side in canvas.shape[-2:])
        image_ids, text_ids = _positions(rows, columns, 0, given.device, dtype, -columns)
        where = {"device": given.device, "dtype": dtype}
        return {
            "hidden_states": pack(canvas).to(dtype),
            "timestep": torch.zeros(len(given), **where),
            "guidance": self.embedded_guidance(cached.GUIDANCE, given),
            "pooled_projections": torch.zeros(len(given), config.pooled_projection_dim, **where),
            "encoder_hidden_states": torch.zeros(len(given), 0, config.joint_attention_dim, **where),
            "txt_ids": text_ids,
            "img_ids": image_ids,
        }

    def control_tokens(self, condition: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b tokens channels"]:
        """What stock `FluxControlPipeline` takes as `control_image` and uses as it is, for it has three dimensions.

        Its `width` is that of the whole canvas, twice a frame's.
        """
        return pack(side_by_side(condition))

    def unpacked(self, predicted: Tensor, like: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """Tokens as frames."""
        return apart(unpack(predicted, like.shape[-2]), like.shape[1])


@lru_cache(maxsize=32)
def _positions(
    rows: int, columns: int, text_tokens: int, device: torch.device, dtype: torch.dtype, first_column: int = 0
) -> tuple[Tensor, Tensor]:
    """Position ids of image and text tokens, as in the stock pipelines."""
    image_ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, dtype)
    image_ids[:, 2] += first_column
    return image_ids, torch.zeros(text_tokens, 3, device=device, dtype=dtype)


BACKBONE = FluxBackbone
