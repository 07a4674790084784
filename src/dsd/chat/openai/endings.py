"""How a reply ended, by all that servers say of it: only one that is known to be whole is a reply."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

Ending = Literal["whole", "refused", "broken", "cut", "unknown"]

_GOOD = {"stop", "eos", "eostoken", "endturn", "endofturn", "stopsequence", "complete", "completed"}
_DONE = {*_GOOD, "success", "succeeded", "ok", "done", "finished"}
_ALSO_GOOD = {"status": _DONE, "state": _DONE, "stop_type": {*_GOOD, "word"}}
_FIELDS = (
    "finish_reason",
    "finishReason",
    "native_finish_reason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "stop_type",
    "status",
    "state",
)
_DETAILS = ("finish_details", "incomplete_details")
_PREFIX = re.compile("finishreason(?=.)|stopreason(?=.)")
_TOKEN = re.compile(r"<[^<>]+>|\[[A-Z_/]+\]")
_MEANS: tuple[tuple[Ending, str], ...] = (
    ("refused", "filter|safety|recitation|refus|block|prohibit|moderat|guardrail|polic|spii|sensitive|denied"),
    ("broken", "error|fail|resource|unavailable|overload|timeout|timelimit|malformed"),
    ("cut", "length|limit|max|trunc|incomplete|partial|budget|toolong|inprogress"),
)
_FLAGS: Mapping[tuple[str, bool], Ending] = {
    ("truncated", True): "cut",
    ("stopped_limit", True): "cut",
    ("incomplete", True): "cut",
    ("partial", True): "cut",
    ("done", False): "cut",
    ("success", False): "broken",
    ("blocked", True): "refused",
    ("filtered", True): "refused",
    ("aborted", True): "unknown",
    ("cancelled", True): "unknown",
}
_WORST: tuple[Ending, ...] = ("refused", "broken", "cut", "unknown", "whole")


def ending_of(*places: Mapping[str, Any]) -> tuple[Ending, str]:
    """How a reply ended.

    Args:
        places: objects whose fields may say so: the body, the choice, the message.

    Returns:
        The worst of what they say, and which field says it.
    """
    found: list[tuple[Ending, str]] = [("whole", "")]
    for place in places:
        for name in _FIELDS:
            if name in place:
                found.append((_ending(name, place[name]), f"{name} is {_shown(place[name])}"))
        for name in _DETAILS:
            for one in _words(place.get(name)):
                found.append((_detail(one), f"{name} say {_shown(one)}"))
        for (name, flag), means in _FLAGS.items():
            if place.get(name) is flag:
                found.append((means, f"{name} is {flag}".lower()))
        if name := _filtered(place):
            found.append(("refused", f"{name} is filtered"))
    return min(found, key=lambda one: _WORST.index(one[0]))


def _ending(field: str, value: Any) -> Ending:
    if value is None or (isinstance(value, str) and not value.strip()):
        return "whole"
    if isinstance(value, str):
        return "whole" if field.startswith("stop") and _TOKEN.fullmatch(value.strip()) else _meaning(field, value)
    if field.startswith("stop") and type(value) is int:
        return "whole"  # the number of the token that ended it
    if field == "status" and type(value) is int and 200 <= value < 300:
        return "whole"
    said: Sequence[Ending] = [*(_meaning(field, one) for one in _words(value)), "unknown"]
    return min(said, key=_WORST.index)


def _meaning(field: str, said: str) -> Ending:
    word = _PREFIX.sub("", re.sub(r"[\W_]+", "", said).casefold())
    if word in _ALSO_GOOD.get(field, _GOOD):
        return "whole"
    for meaning, pattern in _MEANS:
        if re.search(pattern, word):
            return meaning
    return "unknown"


def _detail(said: str) -> Ending:
    return "whole" if _TOKEN.fullmatch(said) else _meaning("", said)


def _words(value: Any) -> Iterator[str]:
    """All texts in a value, keys aside."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        else:
            waiting += one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


def _filtered(place: Mapping[str, Any]) -> str:
    """What a content filter has struck in a reply; empty for nothing."""
    results = place.get("content_filter_results")
    found = results.items() if isinstance(results, dict) else ()
    return next((name for name, one in found if isinstance(one, dict) and one.get("filtered") is True), "")


def _shown(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)
