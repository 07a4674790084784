"""Does a verdict contradict its own reasons? What a comparison says point by point, against the decision after it.

A judge whose comparison calls the hat different and that decides for the same individual has not decided: such a reply
is neither kept nor counted as a rejection. Points read ``colour of the fur: same; hat: different``, or, with the words
of both sides, ``colour scarlet crimson: other; build, slim, wide: same``; sentences count where they call something
lasting other. In a comparison that decides point by point, a point whose answer is neither is not taken for the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from dsd.chat.stand_ins import bare
from dsd.curate.answers import answered, claim, passing, plain
from dsd.curate.schemas import PairVerdict
from dsd.data.records import Verdict

CONTRADICTION = "contradicts itself"
"""The reason by which such verdicts are counted."""

_PIECES = re.compile(r"[;\n]|(?<=[.!?])\s")
_ANSWER = (
    r"(?:(?:clearly|slightly|visibly|completely|totally|entirely|the|not|is|are)\s+)*"
    r"(?:other|another|different|differs?|same|identical|equal|match(?:es|ing)?|mismatch(?:ed)?|missing|absent|no|yes)"
)
_DASHED = re.compile(rf"\s*(?:=+>?|→|⇒|->|–|—|\||\s-)\s*(?={_ANSWER}\b)")
_BRACKETED = re.compile(rf"\s*[(\[]\s*({_ANSWER}\b[^()\[\]]{{0,60}})[)\]]")
_STRAY = " \t.,!?-•"
_NO_SUBJECT = re.compile(
    r"(?:there\s+(?:is|are)\s+|they\s+(?:share|have)\s+|the\s+pictures\s+share\s+|both\s+share\s+)?"
    r"(?:nothing|none|no(?!-)|nil|null|n/?a|n\.a|neither|nobody|not|(?:two\s+)?(?:different|unrelated|distinct)(?!-))\b.*"
)


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
    return tuple(Point(words, other) for words, other in _said(comparison) if other is not None)


def contradiction(verdict: PairVerdict, tolerated: float = 0.0) -> str:
    """What in a verdict contradicts it.

    Args:
        verdict: with its reasons.
        tolerated: share of the points, in [0, 1], that may be called other by a verdict for the same individual. Judges
            that are told that any difference decides are left none; one whose threshold was set by its errors some.

    Returns:
        What contradicts it, in a few words; empty where nothing does.
    """
    said = _said(verdict.comparison)
    found = points(verdict.comparison)
    others = [point for point in found if point.other]
    open_ones = [words for words, other in said if other is None]
    if not verdict.same:
        return "every point is the same, and the verdict is not" if found and not others + open_ones else ""
    if _NO_SUBJECT.fullmatch(bare(verdict.common_subject)):
        return "the pictures share no subject, and yet show the same one"
    if len(others) > tolerated * len(found):
        return (
            f'{len(others)} of {len(found)} points are other, such as "{others[0].words}", and the verdict is the same'
        )
    if found and len(others) + len(open_ones) > tolerated * len(said):
        return f'{len(open_ones)} of {len(said)} points are neither same nor other, such as "{open_ones[0]}"'
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


def _said(comparison: str) -> list[tuple[str, bool | None]]:
    """The lasting features of a comparison, and whether each is called other; None where an answer says neither."""
    found: list[tuple[str, bool | None]] = []
    for piece in _PIECES.split(plain(comparison)):
        for words, answer in _answers(piece):
            if not words:
                found += [(clause, True)] if (clause := claim(answer)) else []
            elif not passing(words):
                found.append((words, answered(answer)))
    return found


def _answers(piece: str) -> list[tuple[str, str]]:
    """The features and their answers in a piece of a comparison; a sentence is an answer to none."""
    piece = _DASHED.sub(": ", piece)
    if ":" not in piece:
        piece = _BRACKETED.sub(r": \1", piece)
    words, *parts = piece.split(":")
    if not parts:
        return [("", piece.strip(_STRAY))]
    found = []
    for place, part in enumerate(parts):
        answer, comma, following = part.partition(",")
        last = place == len(parts) - 1
        if last or not comma:
            answer, following = part, ""
        if answer.strip(_STRAY) and (last or comma or answered(answer) is not None):
            found.append((words.strip(_STRAY) or "it", answer.strip(_STRAY)))
            goes_on = not comma and passing(words)  # "pose: sitting - different" is of the pose alone
            words = words if goes_on else following
        else:
            words = f"{words}:{part}"
    return found
