"""From what a model wrote to a typed reply, strictly: one JSON object of the schema, or a failure that says why.

Models wrap JSON in fences, thoughts and pleasantries; those are skipped. Nothing inside the object is repaired: a
missing key, a number for a word or `"true"` for `true` is a failure, and so are two different objects.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from dsd.chat.protocol import ChatFailure, ChatRequest, Reply

ATTEMPTS = 3
"""How often a question is asked before its failure counts."""

_THOUGHTS = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)


@dataclass(frozen=True)
class CutText:
    """What a model had written when it reached the token limit of its question."""

    text: str


Answer: TypeAlias = str | CutText | ChatFailure
"""The text of a reply, or a failure that asking again would not mend."""


def parse_reply(text: str, schema: type[BaseModel]) -> Reply:
    """Reads a reply.

    Args:
        text: as the model wrote it.
        schema: what it must hold.

    Returns:
        An instance of the schema, or a failure whose reason is ``empty reply``, ``no JSON object``,
        ``several JSON objects``, ``repeated key`` or ``not in the schema``.
    """
    if not text.strip():
        return ChatFailure("empty reply", text=text)
    try:
        objects = _objects(_THOUGHTS.sub("", text))
    except _RepeatedKey as error:
        return ChatFailure("repeated key", f'the key "{error}" occurs twice', text)
    if not objects:
        return ChatFailure("no JSON object", text=text)
    if any(other != objects[0] for other in objects[1:]):
        return ChatFailure("several JSON objects", f"{len(objects)} different objects", text)
    try:
        return schema.model_validate_json(json.dumps(objects[0]), strict=True)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'object'}: {e['msg']}" for e in error.errors())
        return ChatFailure("not in the schema", problems, text)


def ask_until_parsed(
    requests: Sequence[ChatRequest], ask: Callable[[Sequence[ChatRequest], int], Sequence[Answer]]
) -> list[Reply]:
    """Asks all questions, and those whose replies do not parse again, up to `ATTEMPTS` times in all.

    Args:
        requests: the questions.
        ask: given questions and the number of the attempt (from 0), gives the answer to each.

    Returns:
        The replies in order. One that is cut short and does not parse fails with the reason ``cut off``.
    """
    replies: list[Reply] = [ChatFailure("not asked")] * len(requests)
    waiting = list(range(len(requests)))
    for attempt in range(ATTEMPTS):
        answers = ask([requests[index] for index in waiting], attempt) if waiting else ()
        for index, answer in zip(waiting, answers, strict=True):
            replies[index] = _read(answer, requests[index])
        in_vain = {index for index, answer in zip(waiting, answers, strict=True) if isinstance(answer, ChatFailure)}
        waiting = [i for i in waiting if isinstance(replies[i], ChatFailure) and i not in in_vain]
    return replies


def _read(answer: Answer, request: ChatRequest) -> Reply:
    if isinstance(answer, ChatFailure):
        return answer
    if isinstance(answer, str):
        return parse_reply(answer, request.schema)
    reply = parse_reply(answer.text, request.schema)
    if isinstance(reply, ChatFailure):
        return replace(reply, reason="cut off", detail=f"no whole reply within {request.max_tokens} tokens")
    return reply


class _RepeatedKey(Exception):
    pass


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in items:
        if key in found:
            raise _RepeatedKey(key)
        found[key] = value
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _objects(text: str) -> list[dict[str, Any]]:
    """All JSON objects that stand in the text, outermost ones only."""
    objects, place = [], text.find("{")
    while place >= 0:
        try:
            value, place = _DECODER.raw_decode(text, place)
            objects.append(value)
        except (ValueError, RecursionError):
            place += 1
        place = text.find("{", place)
    return objects
