"""What the rest of the code may ask of a transformer family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsd.errors import UserError


@dataclass(frozen=True)
class Text:
    """Encoded prompts.

    Attributes:
        tokens: One vector a token, padded to one length.
        pooled: One vector a prompt, or None for families without one.
    """

    tokens: Float[Tensor, "b n d"]
    pooled: Float[Tensor, "b p"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Text:
        """The same prompts on another device, in another precision."""
        return Text(
            self.tokens.to(device=device, dtype=dtype),
            None if self.pooled is None else self.pooled.to(device=device, dtype=dtype),
        )

    def take(self, index: Tensor | Sequence[int] | slice) -> Text:
        """The prompts at the given places, in their order, repeats allowed."""
        return Text(self.tokens[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def concat(texts: Sequence[Text]) -> Text:
        """One batch of all prompts, in order; all padded to the same length."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        return Text(torch.cat([text.tokens for text in texts]), torch.cat(pooled) if pooled else None)


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Where things are in a family's transformer, by names of its modules.

    Attributes:
        patch_embedding: The layer that takes latents, linear or a convolution; it is widened for a condition.
        attention: Parts of names of the linear layers in attention blocks.
        feed_forward: Parts of names of the linear layers of the blocks' feed-forward networks.
        blocks: The lists of transformer blocks; a block is what is recomputed, compiled and sharded as a whole.
        not_matrices: Parts of names of parameters that are tables, embeddings or modulations: no matrices to Muon.
        published: By hub id, class and config of each component of models whose configs cannot be read without leave.
    """

    patch_embedding: str
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    blocks: tuple[str, ...]
    not_matrices: tuple[str, ...]
    published: Mapping[str, Mapping[str, tuple[str, dict[str, Any]]]] = field(default_factory=dict)


class Backbone(Protocol):
    """A text-to-image model as the method sees it: spatial latents of frames in, their velocity out."""

    @property
    def family(self) -> str:
        """The name of the family in the registry; that of its folder."""
        ...

    @property
    def layers(self) -> Layers:
        """Where things are in its transformer."""
        ...

    @property
    def transformer(self) -> nn.Module:
        """The network that is trained; a stock diffusers model."""
        ...

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        ...

    @property
    def pixels_per_latent(self) -> int:
        """Height and width in pixels of one latent."""
        ...

    @property
    def pixels_per_token(self) -> int:
        """Height and width in pixels of one token; every picture's sides are multiples of it."""
        ...

    @property
    def takes_guidance(self) -> bool:
        """Whether the model is guidance-distilled, so that `velocity` needs `guidance`."""
        ...

    @property
    def is_widened(self) -> bool:
        """Whether the patch embedding takes a condition beside the noisy latents."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the transformer computes."""
        ...

    def tokens_per(self, height: int, width: int) -> int:
        """Image tokens of one frame of so many pixels."""
        ...

    def shift(self, tokens: int, steps: int) -> float:
        """How far the family shifts sigmas, for `dsd.flow.shift_sigmas`, in training and in sampling.

        Args:
            tokens: Image tokens of all frames together.
            steps: Denoising steps of sampling, which some families' shift depends on.
        """
        ...

    def encode_text(self, prompts: Sequence[str], max_tokens: int) -> Text:
        """Encodes prompts, padded or cut to ``max_tokens`` tokens; the empty prompt is "no text"."""
        ...

    def encode(
        self, images: Float[Tensor, "b 3 h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b c h/p w/p"]:
        """Normalised float32 latents of pictures in [-1, 1]: the posterior's mode, or a sample by a generator."""
        ...

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h*p w*p"]:
        """Pictures in [-1, 1] of normalised latents."""
        ...

    def velocity(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | None = None,
    ) -> Float[Tensor, "b f c h w"]:
        """One evaluation of the transformer.

        Args:
            latents: Noisy latents of all frames; those that are drawn stand last.
            sigma: Noise level of each, in [0, 1].
            text: One prompt each.
            condition: Latents of what is given, of the same shape; only for a widened model, where None is "no image"
                (all zeros).
            guidance: The embedded guidance of a guidance-distilled model, which needs it; others ignore it.
        """
        ...

    def arguments(
        self,
        latents: Float[Tensor, "b f c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        condition: Float[Tensor, "b f c h w"] | None = None,
        guidance: float | None = None,
    ) -> dict[str, Any]:
        """What `velocity` hands to the transformer."""
        ...

    def widen(self) -> None:
        """Widens the patch embedding with zero weights: `velocity` then takes a condition and gives what it gave.

        Does nothing when the model is widened already.
        """
        ...


def check_size(backbone: Backbone, height: int, width: int) -> None:
    """Makes sure that a picture's sides in pixels are whole numbers of tokens.

    Raises:
        UserError: They are not; the message names the closest size that works.
    """
    step = backbone.pixels_per_token
    if height < step or width < step or height % step or width % step:
        near = tuple(max(step, round(side / step) * step) for side in (height, width))
        raise UserError(
            f"a picture of {height}x{width} pixels (height x width) does not fit this model: both sides must be "
            f"multiples of {step}, the closest size is {near[0]}x{near[1]}"
        )
