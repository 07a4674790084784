"""Reading a chat model of transformers, which sees pictures or only writes: a folder, a hub id or a GGUF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from dsd.chat.protocol import ChatRequest, ImagePart, TextPart
from dsd.errors import UserError
from dsd.weights import load, load_processor

EXTRA = "chat"
PLAIN = (
    "{% for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""How a conversation reads to a language model that has no chat template of its own."""


@dataclass(frozen=True, kw_only=True)
class ChatWeights:
    """A model that was read, and what turns conversations into its tokens.

    Attributes:
        network: of transformers.
        processor: that of a model which sees pictures, or the tokenizer of a language model.
        sees: whether it takes pictures.
    """

    network: Any
    processor: Any
    sees: bool

    @property
    def tokenizer(self) -> Any:
        """Words to tokens and back."""
        return self.processor.tokenizer if self.sees else self.processor

    @property
    def ends(self) -> set[int]:
        """Tokens that end a reply."""
        ends = self.network.generation_config.eos_token_id
        ends = self.tokenizer.eos_token_id if ends is None else ends
        return set(ends if isinstance(ends, list) else [ends])

    def conversation(self, request: ChatRequest) -> list[dict[str, Any]]:
        """The messages of a question as the chat template takes them."""
        if self.sees:
            return [
                {"role": message.role, "content": [_content(part) for part in message.parts]}
                for message in request.messages
            ]
        return [
            {"role": m.role, "content": "\n\n".join(part.text for part in m.parts if isinstance(part, TextPart))}
            for m in request.messages
        ]

    def inputs(self, requests: Sequence[ChatRequest]) -> Any:
        """Questions as left-padded token rows, with their pictures."""
        padded = {"processor_kwargs": {"padding": True}} if self.sees else {"padding": True}
        found = self.processor.apply_chat_template(
            [self.conversation(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            **padded,
        )
        return self._placed(found)

    def of_texts(self, texts: Sequence[str], requests: Sequence[ChatRequest]) -> Any:
        """Rendered conversations as left-padded token rows, with the pictures of their questions."""
        options: dict[str, Any] = {"padding": True, "return_tensors": "pt", "add_special_tokens": False}
        if not self.sees:
            return self._placed(self.tokenizer(list(texts), **options))
        images = [[p.image for m in r.messages for p in m.parts if isinstance(p, ImagePart)] for r in requests]
        return self._placed(self.processor(text=list(texts), images=images if any(images) else None, **options))

    def _placed(self, inputs: Any) -> Any:
        network = self.network
        return inputs.to(network.device, dtype=network.dtype) if self.sees else inputs.to(network.device)


def read_chat_model(name: str, path: str, *, device: str, dtype: torch.dtype) -> ChatWeights:
    """Reads a model that sees pictures or, where it is none, a language model.

    Args:
        name: as it was asked for.
        path: a folder, a hub id, a GGUF file, or a folder with one GGUF file in it.
        device: where it runs.
        dtype: of its weights.

    Raises:
        UserError: it cannot be found, or is neither.
    """
    try:
        read = _read_gguf(path, dtype) if _gguf_of(path) else _read(path, dtype)
    except UserError as error:
        raise UserError(
            f'"{name}" cannot be loaded as a chat model, which is an image-text-to-text model with a processor or a '
            f"language model with a tokenizer, and safetensors weights, or a GGUF file: {error}"
        ) from error
    read.network.to(device).eval()
    tokenizer = read.tokenizer
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not read.sees and tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN
    return read


def _read(path: str, dtype: torch.dtype) -> ChatWeights:
    kind = load_processor(AutoConfig, path).model_type
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        processor = load_processor(AutoProcessor, path)
        network = load(AutoModelForImageTextToText, path, dtype=dtype, use_safetensors=True)
        return ChatWeights(network=network, processor=processor, sees=True)
    tokenizer = load_processor(AutoTokenizer, path)
    network = load(AutoModelForCausalLM, path, dtype=dtype, use_safetensors=True)
    return ChatWeights(network=network, processor=tokenizer, sees=False)


def _gguf_of(path: str) -> Path | None:
    """The GGUF file that a path is, or that a folder without a config has."""
    place = Path(path)
    if place.is_file():
        return place if place.suffix == ".gguf" else None
    found = sorted(place.glob("*.gguf")) if place.is_dir() and not (place / "config.json").exists() else []
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:3])
        raise UserError(f'"{path}" holds {len(found)} GGUF files ({names}); give the path of one of them')
    return found[0] if found else None


def _read_gguf(path: str, dtype: torch.dtype) -> ChatWeights:
    file = _gguf_of(path)
    assert file is not None
    if find_spec("gguf") is None:
        raise UserError(f"reading GGUF files needs the package gguf; install dsd[{EXTRA}]")
    where: dict[str, Any] = {"gguf_file": file.name}
    tokenizer = load_processor(AutoTokenizer, str(file.parent), **where)
    network = load(AutoModelForCausalLM, str(file.parent), dtype=dtype, **where)
    return ChatWeights(network=network, processor=tokenizer, sees=False)


def _content(part: TextPart | ImagePart) -> dict[str, Any]:
    return (
        {"type": "image", "image": part.image} if isinstance(part, ImagePart) else {"type": "text", "text": part.text}
    )
