"""From what a chat server sent to what its model said; whatever is no chat reply is a fault with its reason."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, NoReturn

from dsd.chat.openai.faults import Fault, fault_of_error, fault_of_status, one_line
from dsd.chat.openai.line import Spoken
from dsd.chat.parse import Answer, CutText
from dsd.chat.protocol import ChatFailure

_THOUGHTS = ("thinking", "reasoning")


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
        body = json.loads(spoken.body)
    except (ValueError, RecursionError):
        body = spoken.body.decode("utf-8", "replace")
        if spoken.status < 300:
            _refuse_text(body, spoken.kind)
    if spoken.status >= 300:
        raise fault_of_status(spoken.status, body, spoken.wait)
    if not isinstance(body, dict):
        _refuse("no chat reply", f"the JSON is {_kind(body)}, not an object")
    if body.get("object") == "error":
        raise fault_of_error(body)
    if body.get("error"):
        raise fault_of_error(body["error"])
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        _refuse("no choices in the reply", f"choices are {_kind(choices)}")
    return _read_choice(choices[0])


def _read_choice(choice: Any) -> Said:
    message = choice.get("message") if isinstance(choice, dict) else None
    if isinstance(choice, dict) and choice.get("error"):
        raise fault_of_error(choice["error"])
    if not isinstance(message, dict):
        _refuse("no message in the reply", f"the first choice is {_kind(choice)}, its message {_kind(message)}")
    finish, refusal = choice.get("finish_reason"), message.get("refusal")
    if refusal and isinstance(refusal, str):
        return Said(ChatFailure("refused to answer", one_line(refusal)))
    text = _text(message.get("content"))
    if finish == "content_filter":
        return Said(ChatFailure("refused to answer", "the server's content filter", text))
    if finish == "error":
        raise Fault("unwell", "server error", "the reply ended with an error")
    found = choice.get("logprobs")
    return Said(CutText(text) if finish in ("length", "max_tokens") else text, found)


def _text(content: Any) -> str:
    """The words of a message, which some servers send in parts."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        _refuse("no text in the reply", f"content is {_kind(content)}")
    texts = []
    for part in content:
        kind = part.get("type", "text") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else part
        if kind in _THOUGHTS:
            continue
        if not isinstance(text, str) or kind not in ("text", "output_text", None):
            _refuse("no text in the reply", f"a part of content is {_kind(part)}")
        texts.append(text)
    return "".join(texts)


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
