"""A chat model in this process: any image-text-to-text model of transformers, asked in left-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList

from dsd.chat.parse import Answer, CutText, ask_until_parsed
from dsd.chat.protocol import RETRY_TEMPERATURE, ChatRequest, ImagePart, Reply
from dsd.devices import default_device, inference_dtype
from dsd.errors import UserError
from dsd.models import resolve, revision_of
from dsd.weights import load, load_processor


class LocalChat:
    """A model of transformers with a chat template.

    The first attempt is greedy; later ones sample, each row from a random stream of its own, so that a reply does not
    depend on its batch but for the last bits of sums.

    Args:
        name: ``embedded:NAME``, a folder or a hub id.
        batch_size: questions a forward pass.
        device: where it runs; by default a GPU when there is one.

    Raises:
        UserError: the model cannot be found, or is not of this kind.
    """

    def __init__(self, name: str, *, batch_size: int = 64, device: str | None = None) -> None:
        self.name, self.batch_size = name, batch_size
        path = resolve(name)
        self.revision = revision_of(path) if Path(path).exists() else name
        self._device = device or default_device()
        dtype = inference_dtype(self._device)
        try:
            self._processor: Any = load_processor(AutoProcessor, path)
            model: Any = load(AutoModelForImageTextToText, path, dtype=dtype, use_safetensors=True)
        except UserError as error:
            raise UserError(
                f'"{name}" cannot be loaded as a chat model, which is an image-text-to-text model with a processor and '
                f"safetensors weights: {error}"
            ) from error
        self._model = model.to(self._device).eval()
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        tokenizer = self._processor.tokenizer
        tokenizer.padding_side = "left"
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`."""
        return ask_until_parsed(requests, self._ask)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, as this model writes it."""
        return [len(row) for row in self._processor.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    @torch.inference_mode()
    def log_likelihoods(self, requests: Sequence[ChatRequest], replies: Sequence[str]) -> list[float]:
        """How likely each reply is after its question, as the sum of its tokens' log-probabilities.

        Differences between two replies to one question rank its answers, as a verdict's confidence does.

        Args:
            requests: questions.
            replies: one each, without the token that ends a turn.
        """
        found: list[float] = []
        for at in range(0, len(requests), self.batch_size):
            rows = slice(at, at + self.batch_size)
            found += self._log_likelihoods(requests[rows], replies[rows]).tolist()
        return found

    def _log_likelihoods(self, requests: Sequence[ChatRequest], replies: Sequence[str]) -> Tensor:
        talks = [_conversation(request) for request in requests]
        prompts = self._processor.apply_chat_template(talks, add_generation_prompt=True, tokenize=False)
        images = [[p["image"] for m in talk for p in m["content"] if p["type"] == "image"] for talk in talks]
        texts = [p + r for p, r in zip(prompts, replies, strict=True)]
        whole, asked = (torch.tensor(self.tokens(some)) for some in (texts, prompts))
        replied_tokens = whole - asked  # those of the pictures cancel
        inputs = self._processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            return_tensors="pt",
            add_special_tokens=False,
        ).to(self._device, dtype=self._model.dtype)
        ids = inputs["input_ids"]
        from_end = torch.arange(ids.shape[1], 0, -1)  # the padding is on the left, so each reply ends its row
        replied = (from_end <= replied_tokens[:, None])[:, 1:].to(self._device)
        logits = self._model(**inputs).logits[:, :-1].float()
        said = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return (said * replied).sum(1).cpu()

    def _ask(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer]:
        starts = range(0, len(requests), self.batch_size)
        return [text for at in starts for text in self._generate(requests[at : at + self.batch_size], attempt)]

    @torch.inference_mode()
    def _generate(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer]:
        inputs = self._processor.apply_chat_template(
            [_conversation(request) for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        ).to(self._device, dtype=self._model.dtype)
        temperatures = [request.temperature_at(attempt) for request in requests]
        streams = [_stream(request.seed, attempt) for request in requests]
        generated: Tensor = self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max(request.max_tokens for request in requests),
            logits_processor=LogitsProcessorList([RowSampling(streams, temperatures)] if any(temperatures) else []),
            pad_token_id=self._processor.tokenizer.pad_token_id,
        )
        new = generated[:, inputs["input_ids"].shape[1] :].tolist()
        cut = [row[: request.max_tokens] for row, request in zip(new, requests, strict=True)]
        texts = self._processor.tokenizer.batch_decode(cut, skip_special_tokens=True)
        return [CutText(t) if self._ends.isdisjoint(row) else t for t, row in zip(texts, cut, strict=True)]


class RowSampling(LogitsProcessor):
    """Turns the greedy choice into a sample of the tempered distribution, by adding Gumbel noise to each row's scores.

    Args:
        streams: a random generator a row.
        temperature: of the distribution, or one for each row; a row of 0 stays greedy.
    """

    def __init__(
        self, streams: Sequence[torch.Generator], temperature: float | Sequence[float] = RETRY_TEMPERATURE
    ) -> None:
        self._streams = streams
        self._temperatures = torch.as_tensor(temperature).expand(len(streams))[:, None]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        width, temperatures = scores.shape[-1], self._temperatures.to(scores)
        noise = torch.stack([torch.empty(width).exponential_(generator=stream) for stream in self._streams])
        sampled = scores / temperatures.clamp(min=1e-6) - noise.clamp(min=1e-30).log().to(scores)
        return torch.where(temperatures > 0, sampled, scores)


def _stream(seed: int, attempt: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 0x9E3779B9 * attempt) % (1 << 63))


def _conversation(request: ChatRequest) -> list[dict[str, Any]]:
    return [
        {
            "role": message.role,
            "content": [
                {"type": "image", "image": part.image} if isinstance(part, ImagePart) else _text(part.text)
                for part in message.parts
            ],
        }
        for message in request.messages
    ]


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}
