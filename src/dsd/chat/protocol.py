"""What curation needs of a language or vision-language model: batched questions, typed answers, failures as values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from PIL import Image
from pydantic import BaseModel, PrivateAttr

RETRY_TEMPERATURE = 0.7
"""At which a question is asked again whose reply did not parse."""
CORRECTION = (
    "That reply cannot be used: {error}. Reply once more to the same question, with one JSON object as asked for and "
    "nothing else: no words before or after it."
)
"""What is said after a reply that cannot be used, where a template says nothing else."""
LONGEST_FAILURE = 10_000
"""Characters that a failure keeps of a reply."""
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class TextPart:
    """Words of a message."""

    text: str


@dataclass(frozen=True)
class ImagePart:
    """A picture of a message, RGB."""

    image: Image.Image


Part: TypeAlias = TextPart | ImagePart


@dataclass(frozen=True)
class Message:
    """One turn of a conversation; its parts are shown to the model in this order."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Part, ...]


class Decision(BaseModel):
    """A reply that decides something: base of schemas with a boolean field that `ChatRequest.decides` may name.

    The probability is what the model itself gave its decision; it is neither in the JSON schema nor read from a reply.
    """

    _probability: float | None = PrivateAttr(default=None)

    @property
    def probability(self) -> float | None:
        """Of the deciding field being true, in [0, 1]; None where the model gives none."""
        return self._probability


@dataclass(frozen=True, kw_only=True)
class ChatRequest:
    """One question.

    Attributes:
        messages: the conversation so far; the reply continues it.
        schema: the pydantic model that the reply must hold as JSON.
        example: an exchange that shows what is wanted, put before the question; empty where a model needs none. A reply
            that says the same is none.
        example_from: attempt, numbered from 0, from which on the example is shown.
        correction: what is said after a reply that cannot be used, with what was wrong in place of ``{error}``; empty
            to ask the same once more, of models that know one question only.
        decides: boolean field of the schema, a `Decision`, whose probability is wanted; empty for none.
        seed: decides every random choice of the answer, together with the model.
        max_tokens: of the reply; a longer one is cut, and what is cut is no reply.
        temperature: of the first attempt; 0 takes the likeliest word each time. Further attempts sample in any case.
    """

    messages: tuple[Message, ...]
    schema: type[BaseModel]
    example: tuple[Message, ...] = ()
    example_from: int = 0
    correction: str = CORRECTION
    decides: str = ""
    seed: int = 0
    max_tokens: int = 512
    temperature: float = 0.0

    def temperature_at(self, attempt: int) -> float:
        """The temperature of an attempt, numbered from 0."""
        return max(self.temperature, RETRY_TEMPERATURE if attempt else 0.0)


@dataclass(frozen=True)
class ChatFailure:
    """No usable answer after all attempts.

    Attributes:
        reason: a few fixed words, to count by.
        detail: what exactly was wrong at the last attempt.
        text: the last reply, as it came but for its length and for what cannot be stored (halves of characters, NUL).
    """

    reason: str
    detail: str = ""
    text: str = ""

    def __post_init__(self) -> None:
        for name in ("reason", "detail", "text"):
            object.__setattr__(self, name, _NO_TEXT.sub("\ufffd", getattr(self, name)[:LONGEST_FAILURE]))


Reply: TypeAlias = BaseModel | ChatFailure


class ChatModel(Protocol):
    """A model to ask.

    Attributes:
        name: as it was asked for.
        revision: names the weights (or the server) behind the name.
    """

    @property
    def name(self) -> str: ...
    @property
    def revision(self) -> str: ...

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """Answers each request, in order, with an instance of its schema or a `ChatFailure`.

        A reply depends on its own request alone, not on the others of the batch.

        Raises:
            UserError: the model cannot be asked at all (a server that is away, a wrong key); nothing was answered.
        """
        ...
