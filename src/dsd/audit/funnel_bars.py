"""A funnel as bars: what there was at each stage, and what of it was lost for which reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dsd.curate.funnel import Funnel

_REASONS = 12
"""Reasons of a stage that have a bar of their own."""


@dataclass(frozen=True)
class Bar:
    """A count.

    Attributes:
        name: of what.
        count: how many.
        share: of what the group starts with, in [0, 1].
        kind: ``kept``, ``lost``, or nothing for what goes on.
    """

    name: str
    count: int
    share: float
    kind: str = ""


@dataclass(frozen=True)
class Group:
    """Stages that count the same thing, so that their bars can be compared."""

    title: str
    bars: Sequence[Bar]


def groups(funnel: Funnel) -> list[Group]:
    """The funnel as two groups of bars: of captions, one of which makes a sheet, and of candidates."""
    rows = funnel.captions + sum(funnel.captions_skipped.values())
    captions = [
        *([Bar("rows of captions", rows, 1.0)] if funnel.captions_skipped else []),
        *_lost("skipped", funnel.captions_skipped, rows),
        Bar("captions", funnel.captions, _share(funnel.captions, rows)),
        *_lost("no grid prompt", funnel.prompts_failed, rows),
        Bar("grid prompts", funnel.grid_prompts, _share(funnel.grid_prompts, rows)),
        *_lost("refused", funnel.sheets_refused, rows),
        Bar("sheets cut", funnel.sheets, _share(funnel.sheets, rows)),
    ]
    candidates = [
        Bar("candidates", funnel.candidates, _share(funnel.candidates, funnel.candidates)),
        *_lost("left out", funnel.left_out or {}, funnel.candidates),
        *_lost("failed", funnel.failed, funnel.candidates),
        *_lost("rejected", funnel.rejected, funnel.candidates),
        Bar("kept", funnel.kept, _share(funnel.kept, funnel.candidates), "kept"),
    ]
    return [Group("From captions to sheets", captions), Group("From candidates to pairs", candidates)]


def _lost(word: str, reasons: Mapping[str, int], whole: int) -> Iterator[Bar]:
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    if len(ordered) > _REASONS:
        others = ordered[_REASONS - 1 :]
        ordered = [*ordered[: _REASONS - 1], (f"{len(others)} other reasons", sum(count for _, count in others))]
    for reason, count in ordered:
        yield Bar(f"{word}: {reason}", count, _share(count, whole), "lost")


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
