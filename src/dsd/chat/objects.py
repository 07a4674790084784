"""The JSON object that a reply is, when it is one: nothing is looked for inside, repaired or guessed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from dsd.chat.protocol import ChatFailure
from dsd.chat.stand_ins import says_something

LONGEST_REPLY = 1 << 18
"""Characters, thoughts included; what is longer was written by a model that ran away."""

_BLANK = " \t\r\n\ufeff\u00a0\u200b\u2060"
_TAG = re.compile(
    r"([<\[◁])(/?)(think|thinking|thoughts?|reason|reasoning|reflection|analysis|scratchpad)\s{0,8}([>\]▷])",
    re.IGNORECASE,
)
_FENCE = re.compile(r"(`{3,}|~{3,}|`)(?:json[c5]?|javascript|js|text)?(?=[\s{])", re.IGNORECASE)
_LANGUAGE = re.compile(r"json[ \t\r]*\n", re.IGNORECASE)
_ENDS = (
    *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|EOT|>", "<|end|>"),
    *("<|eos|>", "<|return|>", "<|end_of_turn|>", "<|END_OF_TURN_TOKEN|>", "<end_of_turn>", "</s>", "<eos>"),
    *("<|end_of_sentence|>", "<\uff5cend\u2581of\u2581sentence\uff5c>", "<|end\u2581of\u2581sentence|>"),
)
"""The tokens by which models end a turn; what else looks like one is taken for words."""
_MOST_ENDS = 4
_NO_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def object_of(text: str) -> dict[str, Any] | ChatFailure:
    """Reads the object that a text is, in time that grows with its length.

    Around it may stand a code fence, before it thoughts that are closed, after it the tokens that end a turn. An object
    that is quoted, drafted, listed or taken back in the next sentence was not said. How it is spelt does not matter: a
    raw line break in a string is read, and so is ``3.0`` for 3.

    Args:
        text: as a model wrote it.

    Returns:
        The object, or a failure; see `dsd.chat.parse.parse_reply` for the reasons.
    """
    if len(text) > LONGEST_REPLY:
        return ChatFailure("reply too long", f"{len(text)} characters; {LONGEST_REPLY} are read at most", text)
    said = text.strip(_BLANK)
    if not said:
        return ChatFailure("empty reply", text=text)
    said = _without_thoughts(said)
    if said is None:
        return ChatFailure("unclosed thought", "what stands in a thought is no reply", text)
    said = _without_fence(_without_ends(said))
    if not said.startswith("{"):
        if "{" not in said:
            return ChatFailure("no JSON object", text=text)
        reason = "no JSON object" if said.startswith("[") else "words around the object"
        return ChatFailure(reason, f"the reply begins with {said[:20]!r}, not with a brace", text)
    return _decoded(said, text)


def whole_examples(text: str) -> list[str]:
    """The JSON objects in a text that would pass for a reply, were it repeated."""
    found, place = [], text.find("{")
    while place >= 0:
        end = place + 1
        try:
            value, end = _DECODER.raw_decode(text, place)
            if value and all(map(says_something, _strings(value)[0])):
                found.append(text[place:end])
        except (ValueError, RecursionError, _RepeatedKey):
            end = place + 1
        place = text.find("{", end)
    return found


def _decoded(said: str, text: str) -> dict[str, Any] | ChatFailure:
    try:
        value, end = _DECODER.raw_decode(said)
    except _RepeatedKey as error:
        return ChatFailure("repeated key", f'the key "{error}" occurs twice', text)
    except (ValueError, RecursionError) as error:
        return ChatFailure("no JSON object", str(error), text)
    if rest := said[end:].strip(_BLANK):
        reason = "several JSON objects" if "{" in rest else "words around the object"
        return ChatFailure(reason, f"after the object stands {rest[:40]!r}", text)
    values, keys = _strings(value)
    wrong = next((found for found in map(_NO_CHARACTER.search, values + keys) if found), None)
    if wrong is not None:
        return ChatFailure("no text", f"a string holds U+{ord(wrong[0]):04X}, which is no character", text)
    if left := next((words for words in values if words.strip() and not says_something(words)), ""):
        return ChatFailure("says nothing", f"a place to fill was left as {left[:40]!r}", text)
    return value


def _without_thoughts(said: str) -> str | None:
    """What follows the thoughts that a reply begins with; None where one of them has no end.

    Where the question itself opened the thought, the reply begins inside it, and its first tag is the end of it.
    """
    first = _TAG.search(said)
    if first is not None and first[2] and not said.startswith(("{", "[{", "```", "~~~")):
        return said[first.end() :].lstrip(_BLANK)
    place = 0
    while (opened := _TAG.match(said, place)) and not opened[2]:
        end = _end_of_thought(said, opened)
        if end is None:
            return None
        place = end
        while place < len(said) and said[place] in _BLANK:
            place += 1
    return said[place:]


def _end_of_thought(said: str, opened: re.Match[str]) -> int | None:
    """Where a thought ends, with all thoughts of its name that were begun inside it; None where it does not."""
    depth, kind = 1, _kind(opened)
    for tag in _TAG.finditer(said, opened.end()):
        if _kind(tag) == kind:
            depth += -1 if tag[2] else 1
        if not depth:
            return tag.end()
    return None


def _kind(tag: re.Match[str]) -> tuple[str, str, str]:
    return tag[1], tag[3].casefold(), tag[4]


def _without_ends(said: str) -> str:
    for _ in range(_MOST_ENDS):
        end = next(filter(said.endswith, _ENDS), "")
        said = said.removesuffix(end).rstrip(_BLANK)
    return said


def _without_fence(said: str) -> str:
    """What a code fence around all of it holds, or follows the name of the language that is left of one."""
    if named := _LANGUAGE.match(said):
        return said[named.end() :].lstrip(_BLANK)
    opened = _FENCE.match(said)
    if opened is None or not said.endswith(opened[1]) or len(said) < opened.end() + len(opened[1]):
        return said
    return said[opened.end() : -len(opened[1])].strip(_BLANK)


def _strings(value: Any) -> tuple[list[str], list[str]]:
    """All strings that are values, and all that are keys."""
    values, keys, waiting = [], [], [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            values.append(item)
        elif isinstance(item, Mapping):
            keys += item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return values, keys


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


def _number(digits: str) -> int | float:
    """A number spelt with a point or an exponent; a whole one is whole however it is spelt."""
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:20]} is no number that fits")
    return int(value) if value.is_integer() else value


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_number, strict=False
)
