"""The arguments of the OpenAI protocol that a server takes; each that it refuses is left out or said otherwise."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel

from dsd.chat.protocol import ChatRequest, ImagePart, Message, Part
from dsd.images import encode_png

_UNKNOWN = re.compile(
    r"not? support|unsupported|unknown|unrecogni[sz]ed|unexpected|not (?:allowed|permitted)|extra", re.I
)
_FORMAT = re.compile(r"response.?format|json|schema|structured|grammar|guided", re.I)
_KEPT = 64  # pictures as data URLs
_ALTERNATIVES = 5  # of each token, among which both decisions are looked for


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What is asked of a server, beyond messages.

    Attributes:
        format: how it is told the shape of a reply.
        log_probabilities: whether they are asked for where something is decided.
        limit: its name for the most tokens of a reply.
        seed: whether it takes one.
        temperature: likewise.
    """

    format: Literal["json_schema", "json_object", "none"] = "json_schema"
    log_probabilities: bool = True
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    seed: bool = True
    temperature: bool = True

    def arguments(self, request: ChatRequest, attempt: int) -> dict[str, Any]:
        """Of a question, numbered by its attempt from 0."""
        asked: dict[str, Any] = {self.limit: request.max_tokens}
        if self.temperature:
            asked["temperature"] = request.temperature_at(attempt)
        if self.seed:
            asked["seed"] = (request.seed + attempt) % (1 << 31)
        if self.format != "none":
            asked["response_format"] = (
                _schema(request.schema) if self.format == "json_schema" else {"type": self.format}
            )
        if self.log_probabilities and request.decides:
            asked |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return asked

    def without(self, complaint: str, *, decides: bool) -> Dialect | None:
        """The dialect to try after a refusal.

        Args:
            complaint: all that the server said.
            decides: whether log-probabilities were asked for, where the dialect has them.

        Returns:
            One that asks for less; None where the complaint is about no argument.
        """
        asked = self.log_probabilities and decides
        if asked and re.search("logprob", complaint, re.IGNORECASE):
            return replace(self, log_probabilities=False)
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return replace(self, limit="max_completion_tokens")
        if self.temperature and "temperature" in complaint:
            return replace(self, temperature=False)
        if self.seed and re.search(r"\bseed\b", complaint):
            return replace(self, seed=False)
        if _FORMAT.search(complaint) or (_UNKNOWN.search(complaint) and not asked):
            less = {"json_schema": "json_object", "json_object": "none"}.get(self.format)
            return replace(self, format=less) if less else None
        return replace(self, log_probabilities=False) if asked and _UNKNOWN.search(complaint) else None


class DataUrls:
    """Pictures as data URLs, in one event loop. The last ones are kept: a panel is in several questions, one after the
    other."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[Image.Image, asyncio.Task[str]]] = {}

    async def of(self, image: Image.Image) -> str:
        """The URL of a picture."""
        if id(image) not in self._made:  # a picture that is held keeps its number to itself
            if len(self._made) == _KEPT:
                del self._made[next(iter(self._made))]
            self._made[id(image)] = image, asyncio.create_task(asyncio.to_thread(_data_url, image))
        return await asyncio.shield(self._made[id(image)][1])  # others may wait for it when this question is given up


async def messages_of(messages: Sequence[Message], pictures: DataUrls) -> list[dict[str, Any]]:
    """Messages as the protocol has them, pictures as data URLs."""
    return [
        {"role": message.role, "content": [await _part(part, pictures) for part in message.parts]}
        for message in messages
    ]


async def _part(part: Part, pictures: DataUrls) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": await pictures.of(part.image)}}
    return {"type": "text", "text": part.text}


def _data_url(image: Image.Image) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


@cache
def _schema(schema: type[BaseModel]) -> dict[str, Any]:
    """Lengths of strings are left to our own check: not every server's grammar knows them."""
    bare = _without(schema.model_json_schema(), ("minLength", "maxLength"))
    return {"type": "json_schema", "json_schema": {"name": schema.__name__, "schema": bare, "strict": True}}


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value
