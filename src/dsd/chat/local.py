"""A chat model in this process: any of transformers that sees pictures or writes, asked in left-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from dsd.chat.guided import Grammars, Opposites, RowSampling, SchemaGuide, Weighing
from dsd.chat.local_models import read_chat_model
from dsd.chat.parse import Answer, CutText, WeighedText, ask_until_parsed
from dsd.chat.protocol import ChatRequest, ImagePart, Reply
from dsd.devices import default_device, inference_dtype
from dsd.errors import UserError
from dsd.models import resolve, revision_of


class LocalChat:
    """A model of transformers: one that sees pictures, or a language model, which is kept to the schema of its reply.

    The first attempt is greedy; later ones sample, each row from a random stream of its own, so that a reply does not
    depend on its batch but for the last bits of sums.

    Args:
        name: ``embedded:NAME``, a folder, a hub id, or a GGUF file.
        batch_size: questions a forward pass.
        device: where it runs; by default a GPU when there is one.

    Raises:
        UserError: the model cannot be found or is of neither kind, or a package for language models is not installed.
    """

    def __init__(self, name: str, *, batch_size: int = 64, device: str | None = None) -> None:
        self.name, self.batch_size = name, batch_size
        path = resolve(name)
        self.revision = revision_of(path) if Path(path).exists() else name
        self._device = device or default_device()
        self._weights = read_chat_model(name, path, device=self._device, dtype=inference_dtype(self._device))
        self._model, self._tokenizer = self._weights.network, self._weights.tokenizer
        self._ends = self._weights.ends
        self._grammars = None if self._weights.sees else Grammars(self._tokenizer, self._ends)

    @cached_property
    def _opposites(self) -> Opposites:
        return Opposites(self._tokenizer)

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`.

        Raises:
            UserError: a language model is asked about a picture.
        """
        if not self._weights.sees and any(
            isinstance(part, ImagePart)
            for request in requests
            for message in request.messages
            for part in message.parts
        ):
            raise UserError(
                f'"{self.name}" is a language model, which reads words alone, but is asked about a picture; '
                "let it write prompts, and name a model that sees pictures as the judge"
            )
        return ask_until_parsed(requests, self._ask)

    def tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, as this model writes it."""
        return [len(row) for row in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

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
        talks = [self._weights.conversation(request) for request in requests]
        prompts = self._weights.processor.apply_chat_template(talks, add_generation_prompt=True, tokenize=False)
        texts = [p + r for p, r in zip(prompts, replies, strict=True)]
        whole, asked = (torch.tensor(self.tokens(some)) for some in (texts, prompts))
        replied_tokens = whole - asked  # those of the pictures cancel
        inputs = self._weights.of_texts(texts, requests)
        ids = inputs["input_ids"]
        from_end = torch.arange(ids.shape[1], 0, -1)  # the padding is on the left, so each reply ends its row
        replied = (from_end <= replied_tokens[:, None])[:, 1:].to(self._device)
        logits = self._model(**inputs).logits[:, :-1].float()
        said = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        return (said * replied).sum(1).cpu()

    def _ask(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer | WeighedText]:
        starts = range(0, len(requests), self.batch_size)
        return [text for at in starts for text in self._generate(requests[at : at + self.batch_size], attempt)]

    @torch.inference_mode()
    def _generate(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer | WeighedText]:
        inputs = self._weights.inputs(requests)
        weighing = Weighing(self._opposites) if any(request.decides for request in requests) else None
        generated: Tensor = self._model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max(request.max_tokens for request in requests),
            logits_processor=self._processors(requests, attempt, weighing),
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = generated[:, inputs["input_ids"].shape[1] :].tolist()
        cut = [row[: request.max_tokens] for row, request in zip(new, requests, strict=True)]
        texts = self._tokenizer.batch_decode(cut, skip_special_tokens=True)
        answers: list[Answer | WeighedText] = [
            CutText(t) if self._ends.isdisjoint(row) else t for t, row in zip(texts, cut, strict=True)
        ]
        return answers if weighing is None else self._weighed(answers, requests, cut, weighing)

    def _processors(
        self, requests: Sequence[ChatRequest], attempt: int, weighing: Weighing | None
    ) -> LogitsProcessorList:
        """What is done to scores: they are weighed as the model gives them, then kept to the schemas, then sampled."""
        found = LogitsProcessorList([] if weighing is None else [weighing])
        if self._grammars is not None:
            found.append(SchemaGuide(self._grammars, [request.schema for request in requests]))
        temperatures = [request.temperature_at(attempt) for request in requests]
        if any(temperatures):
            found.append(RowSampling([_stream(request.seed, attempt) for request in requests], temperatures))
        return found

    def _weighed(
        self,
        answers: Sequence[Answer | WeighedText],
        requests: Sequence[ChatRequest],
        rows: list[list[int]],
        weighing: Weighing,
    ) -> list[Answer | WeighedText]:
        found = []
        for number, (answer, request, row) in enumerate(zip(answers, requests, rows, strict=True)):
            if isinstance(answer, str) and request.decides:
                chance = weighing.probability(number, row, request.decides, self._tokenizer)
                answer = answer if chance is None else WeighedText(answer, chance)
            found.append(answer)
        return found


def _stream(seed: int, attempt: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed + 0x9E3779B9 * attempt) % (1 << 63))
