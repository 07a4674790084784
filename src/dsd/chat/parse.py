"""From what a model wrote to a typed reply, strictly; and asking again, with a word on what was wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from dsd.chat.objects import object_of
from dsd.chat.protocol import ChatFailure, ChatRequest, Decision, Message, Reply, TextPart

ATTEMPTS = 3
"""How often a question is asked before its failure counts."""
_QUOTED = 2000
"""Characters of a reply that a retry shows again."""
_ERROR = "{error}"


@dataclass(frozen=True)
class CutText:
    """What a model had written when it reached the token limit of its question."""

    text: str


Answer: TypeAlias = str | CutText | ChatFailure
"""The text of a reply, or a failure that asking again would not mend."""


@dataclass(frozen=True)
class WeighedText:
    """A reply, and how likely the model was to decide for true in it; see `dsd.chat.protocol.Decision`."""

    text: str
    probability: float


def parse_reply(text: str, schema: type[BaseModel]) -> Reply:
    """Reads a reply.

    Args:
        text: as the model wrote it.
        schema: what it must be: the whole of it, code fences and closed thoughts aside.

    Returns:
        An instance of the schema, or a failure whose reason is ``empty reply``, ``reply too long``, ``unclosed
        thought``, ``no JSON object``, ``words around the object``, ``several JSON objects``, ``repeated key``, ``no
        text`` (a string holds half a character or a NUL), ``says nothing`` (a string is ``...`` or a place to fill) or
        ``not in the schema``.
    """
    found = object_of(text)
    if isinstance(found, ChatFailure):
        return found
    try:
        return schema.model_validate_json(json.dumps(found), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'object'}: {e['msg']}" for e in error.errors())
        return ChatFailure("not in the schema", problems, text)


def ask_until_parsed(
    requests: Sequence[ChatRequest], ask: Callable[[Sequence[ChatRequest], int], Sequence[Answer | WeighedText]]
) -> list[Reply]:
    """Asks all questions, and those whose replies do not parse again, up to `ATTEMPTS` times in all.

    Args:
        requests: the questions.
        ask: given questions, as they read at an attempt, and its number (from 0), gives the answer to each.

    Returns:
        The replies in order. One that is cut short fails with the reason ``cut off`` whatever it holds, and one that
        says again what its example says with ``repeats the example``.
    """
    replies: list[Reply] = [ChatFailure("not asked")] * len(requests)
    waiting = list(range(len(requests)))
    for attempt in range(ATTEMPTS):
        asked = [_asked(requests[index], attempt, replies[index]) for index in waiting]
        answers = ask(asked, attempt) if asked else ()
        for index, answer in zip(waiting, answers, strict=True):
            replies[index] = _read(answer, requests[index])
        in_vain = {index for index, answer in zip(waiting, answers, strict=True) if isinstance(answer, ChatFailure)}
        waiting = [i for i in waiting if isinstance(replies[i], ChatFailure) and i not in in_vain]
    return replies


def _asked(request: ChatRequest, attempt: int, before: Reply) -> ChatRequest:
    """The question as it reads at an attempt: after its example, and before what was wrong with the last reply."""
    messages = request.messages
    if attempt >= request.example_from:
        messages = request.example + messages
    if attempt and request.correction and isinstance(before, ChatFailure):
        wrong = before.reason + (f" ({before.detail})" if before.detail else "")
        messages += (
            Message("assistant", (TextPart(before.text.strip()[:_QUOTED] or "(nothing)"),)),
            Message("user", (TextPart(request.correction.replace(_ERROR, wrong)),)),
        )
    return replace(request, messages=messages, example=())


def _read(answer: Answer | WeighedText, request: ChatRequest) -> Reply:
    if isinstance(answer, ChatFailure):
        return answer
    if isinstance(answer, CutText):
        return ChatFailure("cut off", f"no whole reply within {request.max_tokens} tokens", answer.text)
    text = answer.text if isinstance(answer, WeighedText) else answer
    reply = parse_reply(text, request.schema)
    if isinstance(reply, ChatFailure):
        return reply
    if repeated := _repeated(reply.model_dump(), request.example):
        return ChatFailure("repeats the example", f'"{repeated}" is that of the example', text)
    if isinstance(answer, WeighedText) and isinstance(reply, Decision):
        reply._probability = answer.probability
    return reply


def _repeated(reply: dict[str, Any], example: Sequence[Message]) -> str:
    """The field of a reply that says what it says in an example; empty where none does."""
    for message in example if reply else ():
        texts = [part.text for part in message.parts if isinstance(part, TextPart)]
        shown = object_of("\n".join(texts)) if message.role == "assistant" else {}
        for name, value in shown.items() if isinstance(shown, dict) else ():
            if isinstance(value, (str, list)) and reply.get(name) == value:
                return name
    return ""
