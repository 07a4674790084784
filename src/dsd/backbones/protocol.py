"""What families and the rest of the code hand each other: encoded prompts, and where layers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


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
        rotary: The module that makes a rotary embedding of position ids, where there is one.
        published: By hub id, class and config of each component of models whose configs cannot be read without leave.
    """

    patch_embedding: str
    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    blocks: tuple[str, ...]
    not_matrices: tuple[str, ...]
    rotary: str | None = None
    published: Mapping[str, Mapping[str, tuple[str, dict[str, Any]]]] = field(default_factory=dict)
