"""What is done to the scores of the next token: the JSON schema is kept, samples are drawn, decisions are weighed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor
from transformers import LogitsProcessor

from dsd.chat.local_models import EXTRA
from dsd.chat.protocol import RETRY_TEMPERATURE
from dsd.errors import UserError

_SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_OPPOSITE = {"true": "false", "false": "true"}
_DECISION = re.compile("true|false")


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


class Grammars:
    """Compiles schemas for the tokens of one model.

    Args:
        tokenizer: a fast one.
        ends: tokens that end a reply.

    Raises:
        UserError: the package that compiles is not installed, or the tokenizer is none that it reads.
    """

    def __init__(self, tokenizer: Any, ends: set[int]) -> None:
        if find_spec("llguidance") is None:
            raise UserError(f"a language model in this process needs the package llguidance; install dsd[{EXTRA}]")
        from llguidance.hf import from_tokenizer

        try:
            self._tokenizer = from_tokenizer(tokenizer, eos_token=sorted(ends))
        except ValueError as error:
            raise UserError(
                f"the tokenizer of a language model must be a fast one ({error}); save it as one"
            ) from error
        self.ends = sorted(ends)

    def matcher(self, schema: type[BaseModel]) -> Any:
        """What follows a reply token by token, with its keys in their order and no blanks but one after each sign."""
        from llguidance import LLMatcher

        grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema.model_json_schema()), overrides=_SPELLING)  # pyright: ignore[reportArgumentType]
        matcher = LLMatcher(self._tokenizer, grammar)
        if matcher.is_error():
            raise UserError(f"the schema {schema.__name__} cannot be decoded by ({matcher.get_error()}); simplify it")
        return matcher


class SchemaGuide(LogitsProcessor):
    """Leaves each row the tokens with which its reply can still become an instance of its schema.

    Args:
        grammars: of the model.
        schemas: of each row.
    """

    def __init__(self, grammars: Grammars, schemas: Sequence[type[BaseModel]]) -> None:
        self._matchers = [grammars.matcher(schema) for schema in schemas]
        self._ends = grammars.ends
        self._begun = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        said = input_ids[:, -1].tolist() if self._begun else [None] * len(self._matchers)
        self._begun = True
        allowed = torch.zeros(scores.shape, dtype=torch.bool)
        for row, (matcher, token) in enumerate(zip(self._matchers, said, strict=True)):
            if token is not None and not matcher.is_stopped():
                matcher.consume_token(token)
            if matcher.is_stopped():
                allowed[row, self._ends] = True
                continue
            bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
            width = min(len(bits), scores.shape[1])
            allowed[row, :width] = torch.from_numpy(bits[:width].astype(bool))
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


class Opposites:
    """Tokens of a vocabulary that say true or false, each with the one that says the opposite in the same place."""

    def __init__(self, tokenizer: Any) -> None:
        texts = {token: tokenizer.decode([token]) for token in range(len(tokenizer))}
        by_text: dict[str, int] = {}
        for token, text in texts.items():
            by_text.setdefault(text, token)
        self.of: dict[int, tuple[bool, int]] = {}
        for token, text in texts.items():
            said = _DECISION.findall(text)
            opposite = _DECISION.sub(lambda found: _OPPOSITE[found[0]], text)
            if len(said) == 1 and by_text.get(text) == token and opposite in by_text:
                self.of[token] = (said[0] == "true", by_text[opposite])
        self.tokens = sorted(self.of)


class Weighing(LogitsProcessor):
    """Remembers how the tokens that say true and false were scored at each step; changes nothing.

    Args:
        opposites: of the model's vocabulary.
    """

    def __init__(self, opposites: Opposites) -> None:
        self._opposites = opposites
        self._column = {token: at for at, token in enumerate(opposites.tokens)}
        self._steps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._steps.append(scores[:, self._opposites.tokens].float().cpu())
        return scores

    def probability(self, row: int, tokens: Sequence[int], field: str, tokenizer: Any) -> float | None:
        """How likely a row was to say true where it decided on a field, against false; None where no token did."""
        decides = re.compile(rf'"{re.escape(field)}"\s*:\s*(?:true|false)\W*$')
        for step in reversed(range(len(tokens))):
            said = self._opposites.of.get(tokens[step])
            if said is None or not decides.search(tokenizer.decode(tokens[: step + 1], skip_special_tokens=True)):
                continue
            true, other = said
            scores = self._steps[step][row]
            odds = scores[self._column[tokens[step]]] - scores[self._column[other]]
            return torch.sigmoid(odds if true else -odds).item()
        return None
