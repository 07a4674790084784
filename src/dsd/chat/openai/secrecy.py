"""What a server said, without the key that it was sent: a reply that holds the key is none."""

from __future__ import annotations

from dataclasses import replace

from dsd.chat.objects import LONGEST_REPLY
from dsd.chat.openai.address import Key
from dsd.chat.openai.replies import Said
from dsd.chat.parse import CutText
from dsd.chat.protocol import ChatFailure, Reply

_REASON = "holds the key"
_DETAIL = "the reply repeats the key that the server was sent"


def said_without_key(said: Said, key: Key) -> Said:
    """What was said; where that holds the key, a failure."""
    answer = said.answer
    if isinstance(answer, ChatFailure):
        return replace(said, answer=_failure(answer, key))
    text = (answer.text if isinstance(answer, CutText) else answer)[:LONGEST_REPLY]  # a longer one is no reply anyway
    if not key.is_secret or (hidden := key.redacted(text)) == text:
        return said
    return Said(ChatFailure(_REASON, _DETAIL, hidden))


def reply_without_key(reply: Reply, key: Key) -> Reply:
    """A reply that has been parsed; where that holds the key, a failure."""
    if isinstance(reply, ChatFailure):
        return _failure(reply, key)
    if not key.is_secret:
        return reply
    text = reply.model_dump_json()
    hidden = key.redacted(text)
    return reply if hidden == text else ChatFailure(_REASON, _DETAIL, hidden)


def _failure(failure: ChatFailure, key: Key) -> ChatFailure:
    text = key.redacted(failure.text) if key.is_secret else failure.text
    return replace(failure, detail=key.redacted(failure.detail), text=text)
