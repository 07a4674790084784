"""Attention of FLUX.2 that keeps keys and values of given frames, or sees kept ones, by the stock processors for that.

Those know a cache of one layer; here it is a view of a `Recording` or a `Reference`.
"""

from __future__ import annotations

from typing import Any

from diffusers.models.transformers.transformer_flux2 import (
    Flux2KVAttnProcessor,
    Flux2KVLayerCache,
    Flux2KVParallelSelfAttnProcessor,
)
from torch import Tensor

from dsd.backbones.cached import Numbered, Recording, Reference


class Flux2KeepingAttnProcessor(Numbered, Flux2KVAttnProcessor):
    """Of double-stream blocks; without a reference it is the stock one."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        reference: Recording | Reference | None = None,
    ) -> Any:
        """See `Flux2KVAttnProcessor`; ``reference`` is what `dsd.backbones.cached.KEPT` says."""
        told = _told(self.number, hidden_states, reference)
        return super().__call__(
            attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb, **told
        )  # fmt: skip


class Flux2KeepingParallelSelfAttnProcessor(Numbered, Flux2KVParallelSelfAttnProcessor):
    """Of single-stream blocks; without a reference it is the stock one."""

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        attn: Any,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        reference: Recording | Reference | None = None,
    ) -> Any:
        """See `Flux2KVParallelSelfAttnProcessor`; ``reference`` is what `dsd.backbones.cached.KEPT` says."""
        told = _told(self.number, hidden_states, reference)
        return super().__call__(attn, hidden_states, attention_mask, image_rotary_emb, **told)


class _Layer(Flux2KVLayerCache):
    def __init__(self, number: int, kept: Recording | Reference) -> None:
        super().__init__()
        self.number, self.kept = number, kept

    def store(self, k_ref: Tensor, v_ref: Tensor) -> None:
        assert isinstance(self.kept, Recording)
        self.kept.keep(self.number, k_ref, v_ref)

    def get(self) -> tuple[Tensor, Tensor]:
        assert isinstance(self.kept, Reference)
        return self.kept.at(self.number)


def _told(number: int, tokens: Tensor, kept: Recording | Reference | None) -> dict[str, Any]:
    """What the stock processor is told: of given frames, which have no text, all tokens are kept."""
    if kept is None:
        return {}
    layer = _Layer(number, kept)
    if isinstance(kept, Reference):
        return {"kv_cache": layer, "kv_cache_mode": "cached"}
    return {"kv_cache": layer, "kv_cache_mode": "extract", "num_ref_tokens": tokens.shape[1]}
