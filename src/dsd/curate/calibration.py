"""What a judge's verdicts and scores are worth, where the truth is known: figures alone, nothing is asked here.

A pair counts as kept where it was judged the same with a score of at least ``min_score``, as curation keeps it. Shares
come with Wilson's 95 % interval (E. B. Wilson 1927), which counts every pair as independent of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from math import floor
from typing import Any

from scipy.stats import binomtest

BINS = 10
"""Of scores, equally wide, in which they are compared with how often they are right."""
_FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A verdict beside the truth.

    Attributes:
        truth: whether both pictures show one individual.
        said: whether the judge said so; None where it gave no usable reply.
        score: of its verdict, see `dsd.data.records.Verdict`.
    """

    truth: bool
    said: bool | None
    score: float | None

    def kept(self, min_score: float) -> bool:
        """Whether curation would keep the pair."""
        return bool(self.said) and (not min_score or (self.score is not None and self.score >= min_score))


@dataclass(frozen=True)
class Share:
    """So many of so many, with Wilson's 95 % interval; of none there is no value, and anything is possible."""

    count: int
    of: int

    @property
    def value(self) -> float | None:
        """Between 0 and 1."""
        return self.count / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end."""
        if not self.of:
            return 0.0, 1.0
        low, high = binomtest(self.count, self.of).proportion_ci(confidence_level=0.95, method="wilson")
        return float(low), float(high)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        low, high = self.interval
        return {"value": self.value, "low": round(low, 4), "high": round(high, 4), "count": self.count, "of": self.of}

    def __str__(self) -> str:
        low, high = self.interval
        return "-" if self.value is None else f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True, kw_only=True)
class Point:
    """What is kept from a score on.

    Attributes:
        min_score: from which on; 0 for all that is judged the same.
        precision: share of the same among the kept.
        recall: share of the kept among the same; a pair without a usable reply is not kept.
    """

    min_score: float
    precision: Share
    recall: Share


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A judge's figures.

    Attributes:
        pairs: how many it was asked about.
        same: of these, the same individual. Precision is that of such a share: where more candidates are the same, it
            is higher.
        failed: without a usable reply.
        wanted: the precision that was asked for.
        curve: what is kept from 0 and from each score on, rising.
        chosen: of it, what has the wanted precision and the highest recall; None where nothing has.
        held_out: what the choice is worth on pairs that it was not made with: each fifth, with the others' choice; None
            where nothing was chosen.
        error: expected calibration error: how far scores are from how often they are right, in `BINS` bins weighted by
            their pairs; None without scores.
        reliability: of each bin that holds some, the mean score and the share of the same.
    """

    pairs: int
    same: int
    failed: int
    wanted: float
    curve: tuple[Point, ...]
    chosen: Point | None
    held_out: tuple[Share, Share] | None
    error: float | None
    reliability: tuple[tuple[float, Share], ...]

    @property
    def by_verdict(self) -> Point:
        """What is kept without a ``min_score``."""
        return self.curve[0]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        held_out = None
        if self.held_out is not None:
            held_out = dict(zip(("precision", "recall"), (share.as_dict() for share in self.held_out), strict=True))
        return {
            **{name: getattr(self, name) for name in ("pairs", "same", "failed", "wanted")},
            "min_score": None if self.chosen is None else self.chosen.min_score,
            "by_verdict": _as_dict(self.by_verdict),
            "chosen": None if self.chosen is None else _as_dict(self.chosen),
            "held_out": held_out,
            "calibration_error": self.error,
            "reliability": [{"score": round(score, 4), "same": share.as_dict()} for score, share in self.reliability],
            "curve": [_as_dict(point) for point in self.curve],
        }


def calibrate(rows: Sequence[Scored], wanted: float, *, surely: bool = False) -> Calibration:
    """A judge's figures, and the score for a precision.

    Args:
        rows: its verdicts on pairs of both kinds.
        wanted: precision, in (0, 1].
        surely: the lower end of the precision's interval must reach it, not the estimate alone.
    """
    curve = _curve(rows)
    chosen = _choice(curve, wanted, surely)
    scored = [(row.score, row.truth) for row in rows if row.score is not None]
    reliability = _reliability(scored)
    errors = [(abs(score - (share.value or 0.0)), share.of) for score, share in reliability]
    return Calibration(
        pairs=len(rows),
        same=sum(row.truth for row in rows),
        failed=sum(row.said is None for row in rows),
        wanted=wanted,
        curve=tuple(curve),
        chosen=chosen,
        held_out=None if chosen is None else _held_out(rows, wanted, surely),
        error=sum(error * n for error, n in errors) / len(scored) if scored else None,
        reliability=reliability,
    )


def between(below: float, score: float) -> float:
    """The number of the fewest decimals above ``below`` and not above ``score``, both in [0, 1]."""
    for digits in range(1, 17):
        rounded = floor(score * 10**digits) / 10**digits
        if below < rounded <= score:
            return rounded
    return score


def _curve(rows: Sequence[Scored]) -> list[Point]:
    """At 0 and between every two scores of what was judged the same."""
    same = sum(row.truth for row in rows)
    kept = [row for row in rows if row.said]
    points = [_point(0.0, sum(row.truth for row in kept), len(kept), same)]
    falling = sorted(((row.score, row.truth) for row in kept if row.score is not None), reverse=True)
    right = list(accumulate(truth for _, truth in falling))
    scores = [score for score, _ in falling] + [0.0]
    rising = [
        _point(between(below, score), right[at], at + 1, same)
        for at, (score, below) in enumerate(pairwise(scores))
        if score > below
    ]
    return points + rising[::-1]


def _point(min_score: float, right: int, kept: int, same: int) -> Point:
    return Point(min_score=min_score, precision=Share(right, kept), recall=Share(right, same))


def _choice(curve: Sequence[Point], wanted: float, surely: bool) -> Point | None:
    """The lowest score that has it: recall falls as scores rise."""
    reached: Callable[[Share], float] = (lambda s: s.interval[0]) if surely else (lambda s: s.value or 0.0)
    return next((point for point in curve if point.precision.of and reached(point.precision) >= wanted), None)


def _held_out(rows: Sequence[Scored], wanted: float, surely: bool) -> tuple[Share, Share]:
    """Precision and recall of all folds together; both kinds of pairs are shared out evenly."""
    dealt = [row for truth in (True, False) for row in rows if row.truth is truth]
    kept: list[bool] = []
    for fold in range(_FOLDS):
        chosen = _choice(_curve([row for at, row in enumerate(dealt) if at % _FOLDS != fold]), wanted, surely)
        if chosen is not None:
            kept += [row.truth for row in dealt[fold::_FOLDS] if row.kept(chosen.min_score)]
    return Share(sum(kept), len(kept)), Share(sum(kept), sum(row.truth for row in rows))


def _reliability(scored: Sequence[tuple[float, bool]]) -> tuple[tuple[float, Share], ...]:
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for score, truth in scored:
        bins[min(int(score * BINS), BINS - 1)].append((score, truth))
    return tuple(
        (sum(score for score, _ in some) / len(some), Share(sum(truth for _, truth in some), len(some)))
        for some in bins
        if some
    )


def _as_dict(point: Point) -> dict[str, Any]:
    shares = {"precision": point.precision.as_dict(), "recall": point.recall.as_dict()}
    return {"min_score": point.min_score, **shares}
