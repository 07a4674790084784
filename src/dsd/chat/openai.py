"""A chat model behind any server that speaks the OpenAI protocol: vLLM, SGLang, Ollama, OpenAI, Gemini and so on."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
from pydantic import BaseModel

from dsd.chat.parse import Answer, CutText, ask_until_parsed
from dsd.chat.protocol import ChatFailure, ChatRequest, ImagePart, Part, Reply
from dsd.errors import UserError
from dsd.images import encode_png

DEFAULT_KEY = "OPENAI_API_KEY"
RETRIES = 5  # of one request, when the server is busy or the line breaks, with growing pauses
TIMEOUT_SECONDS = 180.0
TRY_SECONDS = 30.0


class OpenAIChat:
    """Questions go out side by side, with the reply's JSON schema, pictures as data URLs.

    A reply that cannot be used becomes a `ChatFailure`; a server that cannot be used raises, since its silence must
    not end as data.

    Args:
        model: as the server calls it.
        base_url: such as ``http://localhost:8000/v1``.
        key_variable: environment variable with the key; None for `DEFAULT_KEY` if it is set, else no key.
        concurrency: requests in flight.

    Raises:
        UserError: the named variable is not set.
    """

    def __init__(self, model: str, base_url: str, *, key_variable: str | None = None, concurrency: int = 64) -> None:
        key = os.environ.get(key_variable or DEFAULT_KEY)
        if key is None and key_variable is not None:
            raise UserError(f'the environment variable "{key_variable}" is not set; put the key of {base_url} in it')
        self.name, self.revision = model, f"served by {base_url}"
        self._concurrency = concurrency
        self._answered = False
        self._client = openai.OpenAI(
            base_url=base_url, api_key=key or "none", max_retries=RETRIES, timeout=TIMEOUT_SECONDS
        )

    def require_connection(self) -> None:
        """Tries the server, whatever it says.

        Raises:
            UserError: nothing answers there.
        """
        try:
            self._client.with_options(max_retries=1, timeout=TRY_SECONDS).models.list()
        except openai.APIConnectionError as error:
            raise UserError(f"the chat server {self._client.base_url} cannot be used: {_sentence(error)}") from error
        except openai.APIError:
            pass  # it lists no models, but it is there

    def reply(self, requests: Sequence[ChatRequest]) -> list[Reply]:
        """See `dsd.chat.protocol.ChatModel`."""
        return ask_until_parsed(requests, self._ask)

    def _ask(self, requests: Sequence[ChatRequest], attempt: int) -> list[Answer]:
        pool = ThreadPoolExecutor(self._concurrency)
        try:
            replies = list(pool.map(lambda request: self._ask_one(request, attempt), requests))
        except openai.APIError as error:
            raise UserError(f"the chat server {self._client.base_url} cannot be used: {_sentence(error)}") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        refused = [r for r in replies if isinstance(r, ChatFailure) and r.reason == _BAD_REQUEST]
        if len(refused) == len(replies) and not self._answered:
            raise UserError(
                f"the chat server {self._client.base_url} refuses every request: {refused[0].detail}; "
                f'check that "{self.name}" takes pictures and structured output'
            )
        self._answered = True
        return replies

    def _ask_one(self, request: ChatRequest, attempt: int) -> Answer:
        try:
            completion = self._client.chat.completions.create(
                model=self.name,
                messages=[_message(m.role, m.parts) for m in request.messages],  # pyright: ignore[reportArgumentType]
                response_format=_response_format(request.schema),  # pyright: ignore[reportArgumentType]
                max_tokens=request.max_tokens,
                temperature=request.temperature_at(attempt),
                seed=(request.seed + attempt) % (1 << 31),
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return ChatFailure(_BAD_REQUEST, _sentence(error))
        if not completion.choices:
            return ""
        message, finish = completion.choices[0].message, completion.choices[0].finish_reason
        if message.refusal:
            return ChatFailure("refused to answer", message.refusal)
        if finish == "content_filter":
            return ChatFailure("refused to answer", "the server's content filter", message.content or "")
        text = message.content or ""
        return CutText(text) if finish == "length" else text


_BAD_REQUEST = "request refused"


def _sentence(error: openai.APIError) -> str:
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time"
    if isinstance(error, openai.APIConnectionError):
        return f"no connection ({error.__cause__ or error.message})"
    return error.message


def _message(role: str, parts: Sequence[Part]) -> dict[str, Any]:
    return {"role": role, "content": [_part(part) for part in parts]}


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, ImagePart):
        url = "data:image/png;base64," + base64.b64encode(encode_png(part.image)).decode()
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": part.text}


def _response_format(schema: type[BaseModel]) -> dict[str, Any]:
    """Lengths of strings are left to our own check: not every server's grammar knows them."""
    bare = _without(schema.model_json_schema(), ("minLength", "maxLength"))
    return {"type": "json_schema", "json_schema": {"name": schema.__name__, "schema": bare, "strict": True}}


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, keys) for key, item in value.items() if key not in keys}
    return [_without(item, keys) for item in value] if isinstance(value, list) else value
