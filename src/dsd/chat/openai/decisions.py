"""How sure a model is of what it decides, from the log-probabilities of the tokens that it wrote."""

from __future__ import annotations

import math
import re
from typing import Any

_ITEM = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]:,]|true|false', re.DOTALL)
_WORDS = ("true", "false")


def decision_of(log_probabilities: Any, field: str) -> tuple[bool, float] | None:
    """What a reply decided and how likely true was, where it was decided.

    That is at the token that holds the first letter of the value, however the server cuts words into tokens: each of
    its alternatives is on the way to one of the two words, or to neither and is left out.

    Args:
        log_probabilities: ``choices[0].logprobs`` of a reply.
        field: of the reply's object, true or false.

    Returns:
        The value and p(true) / (p(true) + p(false)), in [0, 1]; None where that cannot be told.
    """
    entries = log_probabilities.get("content") if isinstance(log_probabilities, dict) else None
    if not isinstance(entries, list):
        return None
    tokens = [_token(entry) for entry in entries]
    if None in tokens:
        return None
    whole = "".join(token for token in tokens if token is not None)
    place = _place(whole, field)
    if place is None:
        return None
    start = 0
    for entry, token in zip(entries, tokens, strict=True):
        end = start + len(token or "")
        if place < end:
            return _decided(entry, whole[start:place], whole.startswith("true", place))
        start = end
    return None


def _decided(entry: dict[str, Any], before: str, value: bool) -> tuple[bool, float] | None:
    others = entry.get("top_logprobs")
    likely: dict[str, float] = {}
    for one in [*(others if isinstance(others, list) else []), entry]:
        token, number = _token(one), one.get("logprob") if isinstance(one, dict) else None
        if token is None or isinstance(number, bool) or not isinstance(number, (int, float)) or math.isnan(number):
            return None
        likely[token] = math.exp(min(number, 0.0))
    mass = {word: sum(p for token, p in likely.items() if _leads_to(token, before, word)) for word in _WORDS}
    total = mass["true"] + mass["false"]
    return (value, mass["true"] / total) if total > 0 else None


def _leads_to(token: str, before: str, word: str) -> bool:
    """Whether a token in the place of the deciding one begins the word; ``before`` is what that one has before it."""
    rest = token[len(before) :] if before and token.startswith(before) else token.lstrip()
    return bool(rest) and (rest.startswith(word) or word.startswith(rest))


def _token(entry: Any) -> str | None:
    """A token with a character for each of its bytes, since a token may be half a character."""
    if not isinstance(entry, dict):
        return None
    data, text = entry.get("bytes"), entry.get("token")
    if isinstance(data, list) and all(type(byte) is int and 0 <= byte < 256 for byte in data):
        return bytes(data).decode("latin-1")
    return text.encode("utf-8", "replace").decode("latin-1") if isinstance(text, str) else None


def _place(text: str, field: str) -> int | None:
    """Where the value of the field begins in the object that the text ends with, thoughts aside."""
    start = text.find("{", text.rfind("</think") + 1)
    depth, key, found = 0, "", None
    expected = "".join(chr(byte) for byte in field.encode())
    for item in _ITEM.finditer(text, max(start, 0)):
        said = item[0]
        if said in "{[":
            depth += 1
        elif said in "}]":
            depth -= 1
        elif said in _WORDS and depth == 1 and key == f'"{expected}":':
            found = item.start()
        key = said if said.startswith('"') else key + said if said == ":" and depth == 1 else ""
    return found
