"""Encoders that measure: any transformers vision model for identity, any CLIP-like pair for prompt following."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from dsd.errors import UserError
from dsd.models import resolve
from dsd.weights import load, load_processor

_BATCH = 64
_PAIR = "a model of pictures and sentences, such as a CLIP or SigLIP, with its processor"


class ImageEncoder:
    """A vision model such as DINOv2.

    Args:
        name: ``embedded:NAME``, a folder or a hub id that `AutoModel` and `AutoImageProcessor` read.
        device: where it computes.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        self.device = device
        self.processor, self.model = _loaded(name, AutoImageProcessor, device)

    @torch.inference_mode()
    def pooled(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """Normalised pooled features; where a model pools nothing, its first token's."""
        parts = []
        for batch in _batches(images):
            out = self.model(**self._inputs(batch))
            feature = getattr(out, "pooler_output", None)
            feature = out.last_hidden_state[:, 0] if feature is None else feature.flatten(1)
            parts.append(F.normalize(feature, dim=1))
        return torch.cat(parts)

    @torch.inference_mode()
    def levels(self, images: Sequence[Image.Image]) -> list[Float[Tensor, "n d p"]]:
        """Features at every place, normalised over channels: ``(n, channels, places)`` for each level but the last.

        The last level is left out, because it says who is seen and not how the picture looks.
        """
        parts = []
        for batch in _batches(images):
            states = self.model(**self._inputs(batch), output_hidden_states=True).hidden_states[:-1]
            maps = [s.flatten(2) if s.ndim == 4 else s.transpose(1, 2) for s in states]
            parts.append([F.normalize(m, dim=1) for m in maps])
        return [torch.cat(level) for level in zip(*parts, strict=True)]

    def _inputs(self, images: Sequence[Image.Image]) -> Any:
        return self.processor(images=list(images), return_tensors="pt").to(self.device)


class PictureTextEncoder:
    """A pair of encoders with one space for pictures and sentences, such as CLIP or SigLIP.

    Args:
        name: ``embedded:NAME``, a folder or a hub id that `AutoModel` and `AutoProcessor` read.
        device: where it computes.
    """

    def __init__(self, name: str, device: str | torch.device = "cpu") -> None:
        self.device = device
        self.processor, self.model = _loaded(name, AutoProcessor, device)
        if not hasattr(self.model, "get_text_features") or not hasattr(self.processor, "tokenizer"):
            raise UserError(f'"{name}" sees pictures alone; give {_PAIR}')
        self._padding = _padding(self.model.config)

    @torch.inference_mode()
    def pictures(self, images: Sequence[Image.Image]) -> Float[Tensor, "n d"]:
        """Normalised features of pictures."""
        encode = lambda batch: self.model.get_image_features(  # noqa: E731
            **self.processor(images=list(batch), return_tensors="pt").to(self.device)
        )
        return _normalised(encode(batch) for batch in _batches(images))

    @torch.inference_mode()
    def sentences(self, texts: Sequence[str]) -> Float[Tensor, "n d"]:
        """Normalised features of sentences."""
        tokenize = functools.partial(self.processor.tokenizer, **self._padding, truncation=True, return_tensors="pt")
        encode = lambda batch: self.model.get_text_features(**tokenize(list(batch)).to(self.device))  # noqa: E731
        return _normalised(encode(batch) for batch in _batches(texts))


def _padding(config: Any) -> dict[str, Any]:
    """How a model's sentences are padded: SigLIP reads the last place, so it was trained on, and needs, full length."""
    if config.model_type.startswith("siglip"):
        return {"padding": "max_length", "max_length": config.text_config.max_position_embeddings}
    return {"padding": True}


def _normalised(outputs: Any) -> Tensor:
    features = [getattr(out, "pooler_output", out) for out in outputs]
    return F.normalize(torch.cat(features), dim=1)


def _loaded(name: str, processor: Any, device: str | torch.device) -> tuple[Any, Any]:
    """A processor and a model; one that was published without its pooler pools nothing."""
    folder = resolve(name)
    processes = load_processor(processor, folder)
    network = load(AutoModel, folder, optional=("pooler",), strict=False, dtype=torch.float32)
    return processes, network.to(device).eval()


def _batches(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]
