"""FLUX.1: stock diffusers networks, driven with spatial latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from diffusers import AutoencoderKL, FluxPipeline, FluxTransformer2DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from dsd.backbones.protocol import Text
from dsd.errors import UserError
from dsd.flow import ResolutionShift

PATCH = 2  # a token is 2x2 latents


def pack(latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b h/2*w/2 c*4"]:
    """Tokens of 2x2 latents, row by row."""
    return rearrange(latents, "b c (h p) (w q) -> b (h w) (c p q)", p=PATCH, q=PATCH)


def unpack(tokens: Float[Tensor, "b h/2*w/2 c*4"], height: int) -> Float[Tensor, "b c h w"]:
    """The inverse of `pack`, for latents of the given height."""
    return rearrange(tokens, "b (h w) (c p q) -> b c (h p) (w q)", h=height // PATCH, p=PATCH, q=PATCH)


class FluxBackbone:
    """A `dsd.backbones.protocol.Backbone` over the components of a stock `FluxPipeline`.

    Text is encoded by the pipeline's own code. Components that a job does not need may be left out of
    `from_pretrained`; calling what needs them is then an error.
    """

    family = "flux"

    def __init__(self, pipeline: FluxPipeline, vae_config: dict[str, Any]) -> None:
        self.pipeline = pipeline
        self._vae_config = vae_config
        self._resolution_shift = ResolutionShift.from_scheduler(pipeline.scheduler.config)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        transformer: bool = True,
        text: bool = True,
        vae: bool = True,
    ) -> FluxBackbone:
        """Loads a FLUX folder or hub id.

        Args:
            name: A folder in the layout of `FluxPipeline`, or a hub id.
            device: Where to compute.
            dtype: Precision of the weights.
            transformer: Whether to load the transformer.
            text: Whether to load both text encoders.
            vae: Whether to load the autoencoder.
        """
        absent: dict[str, None] = {}
        if not transformer:
            absent["transformer"] = None
        if not text:
            absent |= dict.fromkeys(("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"))
        if not vae:
            absent["vae"] = None
        pipeline = FluxPipeline.from_pretrained(name, torch_dtype=dtype, use_safetensors=True, **absent)
        vae_config: Any = pipeline.vae.config if vae else AutoencoderKL.load_config(name, subfolder="vae")
        return cls(pipeline.to(device), dict(vae_config))

    @classmethod
    def from_pipeline(cls, pipeline: FluxPipeline) -> FluxBackbone:
        """Drives the components of a pipeline that is loaded already; nothing is copied."""
        return cls(pipeline, dict(pipeline.vae.config))

    @property
    def transformer(self) -> FluxTransformer2DModel:
        """The network that is trained."""
        return _present(self.pipeline.transformer, "transformer")

    @property
    def latent_channels(self) -> int:
        """Channels of the autoencoder's latents."""
        return self._vae_config["latent_channels"]

    @property
    def pixels_per_latent(self) -> int:
        """Height and width in pixels of one latent."""
        return 2 ** (len(self._vae_config["block_out_channels"]) - 1)

    @property
    def pixels_per_token(self) -> int:
        """Height and width in pixels of one token."""
        return PATCH * self.pixels_per_latent

    @property
    def takes_guidance(self) -> bool:
        """Whether the transformer is guidance-distilled, like FLUX.1-dev."""
        return bool(self.transformer.config["guidance_embeds"])

    @property
    def is_widened(self) -> bool:
        """Whether the patch embedding takes a condition beside the noisy latents."""
        return self.transformer.x_embedder.in_features == 2 * PATCH**2 * self.latent_channels

    @property
    def resolution_shift(self) -> ResolutionShift:
        """The shift of the model's scheduler config."""
        return self._resolution_shift

    @property
    def device(self) -> torch.device:
        """Where the networks compute, also when the pipeline offloads them in between."""
        return self.pipeline._execution_device

    def tokens_per(self, height: int, width: int) -> int:
        """Image tokens of a picture (or a whole canvas) of so many pixels."""
        return (height // self.pixels_per_token) * (width // self.pixels_per_token)

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str], max_tokens: int) -> Text:
        """T5 tokens padded to ``max_tokens`` (FLUX has no text mask) and the pooled CLIP vector.

        Raises:
            UserError: ``max_tokens`` is not within 1 and 512.
        """
        if not 1 <= max_tokens <= 512:
            raise UserError(f"max_sequence_length is {max_tokens}, but FLUX takes 1 to 512 text tokens")
        encode: Any = self.pipeline.encode_prompt
        tokens, pooled, _ = encode(list(prompts), None, max_sequence_length=max_tokens)
        return Text(tokens, pooled)

    @torch.no_grad()
    def encode(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c h/p w/p"]:
        """Normalised float32 latents of pictures in [-1, 1]: the posterior's mode, or a sample by a generator."""
        vae = self._vae
        posterior = vae.encode(images.to(device=self.device, dtype=vae.dtype)).latent_dist
        latents = (posterior.mode() if generator is None else posterior.sample(generator=generator)).float()
        return (latents - (vae.config["shift_factor"] or 0.0)) * vae.config["scaling_factor"]

    @torch.no_grad()
    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h*p w*p"]:
        """Pictures in [-1, 1] of normalised latents."""
        vae = self._vae
        latents = latents / vae.config["scaling_factor"] + (vae.config["shift_factor"] or 0.0)
        return vae.decode(latents.to(vae.dtype), return_dict=False)[0].clamp(-1, 1)

    def velocity(
        self,
        latents: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b c h w"] | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """One evaluation of the transformer; see `Backbone.velocity`."""
        arguments = self.arguments(latents, sigma, text, condition, guidance)
        return self.evaluated(arguments, latents)

    def arguments(
        self,
        latents: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b c h w"] | None = None,
        guidance: float | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer; a ControlNet of the family takes the same.

        Positions run over the rows and columns of the whole canvas, as in the stock pipelines.
        """
        dtype = self.transformer.dtype
        tokens = pack(latents)
        if self.is_widened:
            tokens = torch.cat([tokens, torch.zeros_like(tokens) if condition is None else pack(condition)], dim=-1)
        elif condition is not None:
            raise ValueError("a condition was given, but the patch embedding is not widened; call widen() first")
        embedded = None
        if self.takes_guidance:
            if guidance is None:
                raise ValueError("this model is guidance-distilled and needs a guidance value, 3.5 by default")
            embedded = torch.full((len(latents),), guidance, device=latents.device, dtype=torch.float32)
        image_ids, text_ids = _positions(
            latents.shape[-2] // PATCH, latents.shape[-1] // PATCH, text.tokens.shape[1], latents.device, dtype
        )
        return {
            "hidden_states": tokens.to(dtype),
            "timestep": sigma.to(dtype),
            "guidance": embedded,
            "pooled_projections": None if text.pooled is None else text.pooled.to(dtype),
            "encoder_hidden_states": text.tokens.to(dtype),
            "txt_ids": text_ids,
            "img_ids": image_ids,
        }

    def evaluated(
        self, arguments: Mapping[str, Any], like: Float[Tensor, "b c h w"], **more: Any
    ) -> Float[Tensor, "b c h w"]:
        """The transformer's velocity for `arguments`.

        Args:
            arguments: from `arguments`.
            like: latents whose height and precision the velocity takes.
            **more: what a method adds, such as a ControlNet's residuals.
        """
        predicted = self.transformer(**arguments, **more, return_dict=False)[0]
        return unpack(predicted, like.shape[-2]).to(like.dtype)

    def widen(self) -> None:
        """Doubles the input features of the patch embedding, with zero weights for the condition.

        Exactly the published model's ``c_embedder`` folded into ``x_embedder``, and what diffusers' control LoRA does.
        """
        if self.is_widened:
            return
        transformer = self.transformer
        old = transformer.x_embedder
        new = nn.Linear(2 * old.in_features, old.out_features, device=old.weight.device, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.zero_()[:, : old.in_features].copy_(old.weight)
            new.bias.copy_(old.bias)
        new.requires_grad_(old.weight.requires_grad)
        transformer.x_embedder = new
        transformer.register_to_config(in_channels=new.in_features, out_channels=transformer.out_channels)

    @property
    def _vae(self) -> Any:
        return _present(self.pipeline.vae, "vae")


def _present(component: Any, name: str) -> Any:
    if component is None:
        raise ValueError(f"this backbone was loaded without its {name}; load it with {name}=True")
    return component


@lru_cache(maxsize=32)
def _positions(
    rows: int, columns: int, text_tokens: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Position ids of image and text tokens, as in the stock pipelines."""
    image_ids = FluxPipeline._prepare_latent_image_ids(1, rows, columns, device, dtype)
    return image_ids, torch.zeros(text_tokens, 3, device=device, dtype=dtype)
