"""From what a chat server sent to what its model said; whatever is no chat reply is a fault with its reason."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from dsd.chat.openai.endings import ending_of
from dsd.chat.openai.faults import Fault, fault_of_error, fault_of_status, one_line, sentence_of
from dsd.chat.openai.line import Spoken
from dsd.chat.parse import Answer, CutText
from dsd.chat.protocol import ChatFailure

_ROLES = ("assistant", "model")
_THOUGHT = re.compile("think|reason|thought|analysis", re.IGNORECASE)
_MARKS = ("thought", "thinking", "reasoning", "is_thought")


@dataclass(frozen=True)
class Said:
    """A model's reply.

    Attributes:
        answer: its text, or why there is none.
        log_probabilities: of its tokens, as they came; None where the server gives none.
    """

    answer: Answer
    log_probabilities: Any = None


def read_reply(spoken: Spoken) -> Said:
    """Reads a chat completion.

    Raises:
        Fault: it is none.
    """
    try:
        return _read(spoken)
    except RecursionError:
        if spoken.status >= 300:
            raise fault_of_status(spoken.status, "", spoken.wait) from None
        _refuse("no JSON from the server", "it is nested too deep")


def _read(spoken: Spoken) -> Said:
    try:
        body = json.loads(spoken.body, object_pairs_hook=_unique if spoken.status < 300 else None)
    except _RepeatedKey as error:
        _refuse("repeated key from the server", f'"{one_line(str(error))}" occurs twice')
    except (ValueError, RecursionError):
        body = spoken.body.decode("utf-8", "replace")
        if spoken.status < 300:
            _refuse_text(body, spoken.kind)
    if spoken.status >= 300:
        raise fault_of_status(spoken.status, body, spoken.wait)
    if not isinstance(body, dict):
        _refuse("no chat reply", f"the JSON is {_kind(body)}, not an object")
    if body.get("object") == "error" or ("choices" not in body and _has_status(body)):
        raise fault_of_error(body)
    _require_no_error(body)
    if str(body.get("object")).endswith(".chunk"):
        _refuse("event stream for a reply", "it is a piece of one")
    return _read_choice(body, _choice(body))


def _require_no_error(place: dict[str, Any]) -> None:
    """Raises:
    Fault: it holds an error.
    """
    for name in ("error", "errors"):
        if error := place.get(name):
            raise fault_of_error(error[0] if isinstance(error, list) else error)


def _has_status(body: dict[str, Any]) -> bool:
    """Whether it names a status of HTTP that stands for an error."""
    return any(re.fullmatch("[45][0-9]{2}", str(body.get(name))) for name in ("code", "status", "status_code"))


def _choice(body: dict[str, Any]) -> dict[str, Any]:
    """The only choice of a reply, or the first of some that say the same."""
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        _refuse("no choices in the reply", f"choices are {_kind(choices)}")
    choice = choices[0]
    if not isinstance(choice, dict):
        _refuse("no message in the reply", f"the first choice is {_kind(choice)}, its message null")
    if choice.get("index") not in (None, 0):
        _refuse("no first choice in the reply", f"the index of the first is {one_line(str(choice['index']))}")
    if any({**other, "index": 0} != {**choice, "index": 0} if isinstance(other, dict) else True for other in choices):
        _refuse("several choices in the reply", f"{len(choices)}, where one was asked for")
    return choice


def _read_choice(body: dict[str, Any], choice: dict[str, Any]) -> Said:
    message = choice.get("message")
    _require_no_error(choice)
    if not isinstance(message, dict):
        _refuse("no message in the reply", f"the first choice is an object, its message {_kind(message)}")
    _require_no_error(message)
    _require_own_words(message)
    if refusal := _refusal(message):
        return Said(ChatFailure("refused to answer", refusal))
    ending, says = ending_of(body, choice, message)
    says = one_line(says)
    if ending == "broken":
        raise Fault("unwell", "server error", f"the reply ended with an error: {says}")
    if ending == "unknown":
        _refuse("unknown ending", says)
    text = _text(message)
    if ending == "refused":
        return Said(ChatFailure("refused to answer", f"the server's content filter: {says}", text))
    return Said(CutText(text) if ending == "cut" else text, choice.get("logprobs"))


def _require_own_words(message: dict[str, Any]) -> None:
    """Raises:
    Fault: it is another's turn, or a call of a tool, of which there is none.
    """
    role = message.get("role")
    if role is not None and str(role).casefold() not in _ROLES:
        _refuse("reply of another role", f"its role is {one_line(str(role)) or 'blank'}")
    for name in ("tool_calls", "function_call"):
        if message.get(name):
            _refuse("tool call for a reply", f"{name} is {_kind(message[name])}")


def _refusal(message: dict[str, Any]) -> str:
    """What a model that does not answer says instead; empty where it answers."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    said = [part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    for refusal in (message.get("refusal"), *said):
        if isinstance(refusal, str) and not refusal.strip():
            continue
        if refusal:
            return one_line(refusal) if isinstance(refusal, str) else sentence_of(refusal) or "the server says so"
    return ""


def _text(message: dict[str, Any]) -> str:
    """The words of a message, which some servers send in parts; thoughts are none of them."""
    content = message.get("content")
    if content is None or _is_thought(message):
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        _refuse("no text in the reply", f"content is {_kind(content)}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        if kind == "refusal" or (isinstance(part, dict) and _is_thought(part)):
            continue
        if not isinstance(text, str) or kind not in ("text", "output_text", None):
            _refuse("no text in the reply", f"a part of content is {_kind(part)}")
        texts.append(text)
    return "".join(texts)


def _is_thought(part: dict[str, Any]) -> bool:
    """Whether a part, or a message, is marked as what a model thinks before it answers."""
    extra = part.get("extra_content")
    places = (
        [part, *(place for place in extra.values() if isinstance(place, dict))] if isinstance(extra, dict) else [part]
    )
    kinds = (part.get("type"), part.get("channel"))
    return any(isinstance(kind, str) and _THOUGHT.search(kind) for kind in kinds) or any(
        place.get(name) is True for place in places for name in _MARKS
    )


class _RepeatedKey(Exception):
    pass


def _unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object; one that says two things of one key says neither."""
    found = dict(items)
    if len(found) < len(items):
        for key, value in items:
            if found[key] != value:
                raise _RepeatedKey(key)
    return found


def _refuse_text(text: str, kind: str) -> NoReturn:
    start = text.lstrip()[:200].lower()
    if kind == "text/html" or start.startswith(("<!doctype", "<html")):
        _refuse("web page for a reply", one_line(text))
    if kind == "text/event-stream" or start.startswith(("data:", "event:", ":")):
        _refuse("event stream for a reply", one_line(text))
    _refuse("no JSON from the server", one_line(text) or "nothing")


def _refuse(reason: str, detail: str) -> NoReturn:
    raise Fault("odd", reason, detail)


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number") if value != [] else "an empty list"
