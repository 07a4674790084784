"""FLUX.2 klein: stock diffusers networks, driven with spatial latents; frames stand in sequence, told apart by a time.

Latents are 2x2 patches of the autoencoder's, normalised by its batch norm's statistics; a token is one of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from dsd.backbones import cached
from dsd.backbones.flux2.attention import Flux2KeepingAttnProcessor, Flux2KeepingParallelSelfAttnProcessor
from dsd.backbones.flux2.layers import LAYERS
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone

_PATCH = 2  # of the autoencoder's latents in one of ours
_TIME_STEP = 10  # between references, as in the stock pipeline


class Flux2Backbone(StockBackbone):
    """The components of a `Flux2KleinPipeline`."""

    family = "flux2"
    layers = LAYERS
    pipeline_class = Flux2KleinPipeline
    vae_class = AutoencoderKLFlux2
    text_components = ("text_encoder", "tokenizer")
    patch = 1
    shift_knows_steps = True
    keeping = MappingProxyType(
        dict(zip(LAYERS.blocks, (Flux2KeepingAttnProcessor, Flux2KeepingParallelSelfAttnProcessor), strict=True))
    )

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return _PATCH**2 * super().latent_channels

    @property
    def pixels_per_latent(self) -> int:
        """Height and width in pixels of one latent."""
        return _PATCH * super().pixels_per_latent

    def shift(self, tokens: int, steps: int) -> float:
        """The family's empirical shift, which depends on the number of steps too."""
        return math.exp(compute_empirical_mu(tokens, steps))

    def _encoded(self, prompts: list[list[str]], max_tokens: int) -> Text:
        """Hidden states of three layers of Qwen3; the stock pipeline uses no mask either."""
        tokens, _ = self.pipeline.encode_prompt(prompts[0], device=self.device, max_sequence_length=max_tokens)
        return Text(tokens)

    def worded(self, prompt: str) -> str:
        """A message to Qwen3, as the stock pipeline puts it."""
        messages = [{"role": "user", "content": prompt}]
        return self.pipeline.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )

    def normalised(self, latents: Tensor) -> Tensor:
        """Patches of the autoencoder's latents, by the statistics of its batch norm."""
        mean, deviation = self._statistics
        patches = rearrange(latents, "b c (h p) (w q) -> b (c p q) h w", p=_PATCH, q=_PATCH)
        return (patches - mean.to(patches)) / deviation.to(patches)

    def restored(self, latents: Tensor) -> Tensor:
        """The inverse of `normalised`."""
        mean, deviation = self._statistics
        patches = latents * deviation.to(latents) + mean.to(latents)
        return rearrange(patches, "b (c p q) h w -> b c (h p) (w q)", p=_PATCH, q=_PATCH)

    def arguments(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | Float[Tensor, " b"] | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer.

        The last frame stands at time 0, where the model draws, and the frames before it where it looks for references:
        at 10, 20 and so on. Of a cached model references have those places, and frames before the last stand at -10,
        -20 and so on.
        """
        dtype = self.dtype
        latents, condition = self.with_condition(latents, condition)
        tokens = _in_sequence(latents)
        if condition is not None:
            tokens = torch.cat([tokens, _in_sequence(condition)], dim=-1)
        _, frames, _, rows, columns = latents.shape
        step = -_TIME_STEP if self.is_cached else _TIME_STEP
        times = (*(step * (frame + 1) for frame in range(frames - 1)), 0)
        image_ids, text_ids = _positions(times, rows, columns, text.tokens.shape[1], latents.device)
        return {
            "hidden_states": tokens.to(dtype),
            "timestep": sigma.to(dtype),
            "guidance": self.embedded_guidance(guidance, latents),
            "encoder_hidden_states": text.tokens.to(dtype),
            "txt_ids": text_ids,
            "img_ids": image_ids,
        }

    def given_arguments(self, given: Float[Tensor, "b r c h w"]) -> dict[str, Any]:
        """See the base class; references stand at the times where the model looks for them."""
        _, frames, _, rows, columns = given.shape
        times = tuple(_TIME_STEP * (frame + 1) for frame in range(frames))
        image_ids, text_ids = _positions(times, rows, columns, 0, given.device)
        where, width = {"device": given.device, "dtype": self.dtype}, self.transformer.config.joint_attention_dim
        return {
            "hidden_states": _in_sequence(given).to(self.dtype),
            "timestep": torch.zeros(len(given), **where),
            "guidance": self.embedded_guidance(cached.GUIDANCE, given),
            "encoder_hidden_states": torch.zeros(len(given), 0, width, **where),
            "txt_ids": text_ids,
            "img_ids": image_ids,
        }

    def unpacked(self, predicted: Tensor, like: Float[Tensor, "b f c h w"]) -> Float[Tensor, "b f c h w"]:
        """Tokens as frames."""
        _, frames, _, rows, _ = like.shape
        return rearrange(predicted, "b (f h w) c -> b f c h w", f=frames, h=rows)

    def target_tokens(self, given: Sequence[bool], rows: int, columns: int) -> Int[Tensor, " targets"]:
        """Places of the tokens of the frames to draw; frames follow one another."""
        return (~torch.tensor(given)).repeat_interleave(rows * columns).nonzero().flatten()

    @property
    def _statistics(self) -> tuple[Tensor, Tensor]:
        norm, eps = self.vae.bn, self.vae_config["batch_norm_eps"]
        return norm.running_mean.view(1, -1, 1, 1), (norm.running_var.view(1, -1, 1, 1) + eps).sqrt()


def _in_sequence(frames: Tensor) -> Tensor:
    return rearrange(frames, "b f c h w -> b (f h w) c")


@lru_cache(maxsize=32)
def _positions(
    times: tuple[int, ...], rows: int, columns: int, text_tokens: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Position ids (time, row, column, text) of image and text tokens, as in the stock pipeline."""
    zero = torch.arange(1)
    image_ids = torch.cartesian_prod(torch.tensor(times), torch.arange(rows), torch.arange(columns), zero)
    text_ids = torch.cartesian_prod(zero, zero, zero, torch.arange(text_tokens))
    return image_ids.to(device), text_ids.to(device)


BACKBONE = Flux2Backbone
