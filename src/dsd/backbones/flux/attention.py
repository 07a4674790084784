"""Attention of FLUX.1 that keeps keys and values of given frames, or sees kept ones."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor, _get_qkv_projections
from torch import Tensor

from dsd.backbones.cached import Numbered, Recording, Reference, seen


class FluxKeepingAttnProcessor(Numbered, FluxAttnProcessor):
    """The stock processor, with a place between keys and attention; without a reference it is the stock one."""

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Any = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: Any = None,
        reference: Recording | Reference | None = None,
    ) -> Any:
        """See `FluxAttnProcessor`.

        Args:
            attn: The layer.
            hidden_states: Image tokens, or in single-stream blocks text and image tokens.
            encoder_hidden_states: Text tokens; None in single-stream blocks.
            attention_mask: Of the stock processor.
            image_rotary_emb: Positions.
            reference: See `dsd.backbones.cached.KEPT`.
        """
        if reference is None:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb)
        found: Any = _get_qkv_projections(attn, hidden_states, encoder_hidden_states)
        query, key, value = (one.unflatten(-1, (-1, attn.head_dim)) for one in found[:3])
        query, key = attn.norm_q(query), attn.norm_k(key)
        words = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if encoder_hidden_states is not None:
            text_query, text_key, text_value = (one.unflatten(-1, (-1, attn.head_dim)) for one in found[3:])
            query = torch.cat([attn.norm_added_q(text_query), query], dim=1)
            key = torch.cat([attn.norm_added_k(text_key), key], dim=1)
            value = torch.cat([text_value, value], dim=1)
        rotated: Any = [apply_rotary_emb(one, image_rotary_emb, sequence_dim=1) for one in (query, key)]
        query, key = rotated
        key, value = seen(self.number, key, value, reference)
        attended = dispatch_attention_fn(
            query, key, value, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        attended = attended.flatten(2, 3).to(query.dtype)
        if encoder_hidden_states is None:
            return attended
        text, image = attended[:, :words], attended[:, words:]
        return attn.to_out[1](attn.to_out[0](image.contiguous())), attn.to_add_out(text.contiguous())
