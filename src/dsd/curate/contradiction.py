"""Does a verdict contradict its own reasons? What a comparison says point by point, against the decision after it.

A judge whose comparison calls the hat different and that decides for the same individual has not decided: such a reply
is neither kept nor counted as a rejection. Points read ``colour of the fur: same; hat: different``, or, with the words
of both sides, ``colour scarlet crimson: other; build, slim, wide: same``; sentences are read where they are plain.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsd.curate.schemas import PairVerdict
from dsd.data.records import Verdict

CONTRADICTION = "contradicts itself"
"""The reason by which such verdicts are counted."""

_PIECES = re.compile(r"[;\n]|(?<=[.!?])\s")
_DEGREE = r"(?:(?:clearly|slightly|somewhat|very|quite|completely|exactly|nearly|almost|the|visibly)\s+)*"
_OTHER = re.compile(rf"{_DEGREE}(?:other|another|different|differs?|differing|not\s+(?:the\s+)?same|unlike|mismatch)\b")
_SAME = re.compile(rf"{_DEGREE}(?:same|identical|equal|alike|match(?:es|ing)?|unchanged|no\s+differences?)\b")
_STATED = re.compile(
    rf"(?P<what>[\w\s'-]{{1,60}}?)\s+(?:(?:is|are|looks?|seems?|appears?)\s+)?"
    rf"{_DEGREE}(?:differs?|different|not\s+(?:the\s+)?same|unlike)\b"
)
_WHO = r"(?:individual|subject|animal|character|person|people|creature|object|one|thing|pet|toy|product)s?"
_OTHERS = re.compile(
    rf"\b(?:not|n't|never|no longer)\s+(?:\w+\s+){{0,3}}same\s+(?:\w+\s+)?{_WHO}\b"
    rf"|\b(?:two|are|is a|show|shows)\s+(?:\w+\s+)?different\s+(?:\w+\s+)?{_WHO}\b"
)
_NO_FEATURE = {
    *("pose", "poses", "posture", "expression", "expressions", "mood", "action", "activity", "position", "positions"),
    *(
        "viewpoint",
        "view",
        "views",
        "angle",
        "perspective",
        "distance",
        "framing",
        "crop",
        "camera",
        "light",
        "lighting",
    ),
    *("shadow", "shadows", "background", "backgrounds", "surroundings", "setting", "settings", "scene", "scenes"),
    *("place", "location", "weather", "time", "day", "picture", "pictures", "image", "images", "panel", "panels"),
    *("photo", "photos", "the", "a", "an", "and", "or", "of", "in", "its", "their", "two", "both", "only"),
}
_HEDGED = {"no", "none", "nothing", "neither", "that", "what", "which", "if", "whether"}
_NOTHING = {"nothing", "none", "no", "no common subject", "n/a"}


@dataclass(frozen=True)
class Point:
    """One feature that a comparison goes through.

    Attributes:
        words: what stands before the answer: the feature's name and what both pictures show of it.
        other: whether it is called other, and not the same.
    """

    words: str
    other: bool


def points(comparison: str) -> tuple[Point, ...]:
    """The points of a comparison that say of a lasting feature whether it is the same, in their order."""
    found = []
    for piece in _PIECES.split(comparison.casefold()):
        words, colon, answer = (part.strip(" \t.,") for part in piece.rpartition(":"))
        if colon and _lasting(words):
            said = _OTHER.match(answer) or _SAME.match(answer)
            found += [Point(words, other=_OTHER.match(answer) is not None)] if said else []
        elif not colon and (said := _STATED.match(answer)) and _lasting(said["what"]) and not _hedged(said["what"]):
            found.append(Point(said["what"].strip(), other=True))
    return tuple(found)


def contradiction(verdict: PairVerdict, tolerated: float = 0.0) -> str:
    """What in a verdict contradicts it.

    Args:
        verdict: with its reasons.
        tolerated: share of the points, in [0, 1], that may be called other by a verdict for the same individual. Judges
            that are told that any difference decides are left none; one whose threshold was set by its errors some.

    Returns:
        What contradicts it, in a few words; empty where nothing does.
    """
    found = points(verdict.comparison)
    others = [point for point in found if point.other]
    if not verdict.same:
        return "every point is the same, and the verdict is not" if found and not others else ""
    if verdict.common_subject.casefold().strip(" .") in _NOTHING:
        return "the pictures share no subject, and yet show the same one"
    if said := _OTHERS.search(verdict.comparison.casefold()):
        return f'the comparison says "{said[0]}", and the verdict that they are the same'
    if found and len(others) > tolerated * len(found):
        return (
            f'{len(others)} of {len(found)} points are other, such as "{others[0].words}", and the verdict is the same'
        )
    return ""


def misquoted(verdict: PairVerdict | Verdict) -> int:
    """How many points of a comparison that repeats the words of both sides contradict the descriptions above it.

    Such as ``colour vermilion vermilion: other``, or eyes that are crimson in the description and tangerine here.
    """
    return sum(_misquotes(point, _plain(verdict.first_details), _plain(verdict.second_details))
               for point in points(verdict.comparison))  # fmt: skip


def _misquotes(point: Point, first: str, second: str) -> bool:
    one, other = _quoted(point.words)
    if not one:
        return False
    if point.other and one == other:
        return True
    return any(words != "nothing" and f" {words} " not in said for words, said in ((one, first), (other, second)))


def _quoted(words: str) -> tuple[str, str]:
    """What a point's words say of both sides, after the feature's name; empty where they do not."""
    pieces = [piece.strip() for piece in words.split(",")]
    if len(pieces) == 3:
        return pieces[1], pieces[2]
    if len(pieces) == 2 and pieces[1].endswith(" nothing"):
        return pieces[1].removesuffix(" nothing"), "nothing"
    if len(pieces) == 2:
        return _last(pieces[0].split(), 1)[0], pieces[1]
    one, other = _last(words.split(), 2)
    return one, other


def _last(words: Sequence[str], count: int) -> tuple[str, str]:
    return (words[-count], words[-1]) if len(words) > count else ("", "")


def _plain(details: str) -> str:
    return " " + " ".join(details.casefold().replace(",", " , ").replace(".", " ").split()) + " "


def _lasting(words: str) -> bool:
    """Whether words name a feature of the subject, and not its pose or surroundings alone."""
    return not _NO_FEATURE.issuperset(re.findall(r"\w+", words))


def _hedged(words: str) -> bool:
    return not _HEDGED.isdisjoint(words.split())
