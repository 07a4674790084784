"""Judged candidates to rows: what is kept, in both orders, and what is not, with the reason."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dsd.chat.protocol import ChatFailure
from dsd.curate.judge import Candidate
from dsd.data.records import Model, Pair, Reject, Verdict, pair_id, turned

NEAR_COPY = "nearly the same picture"
DIFFERENT = "not the same individual"
BELOW = "below min_score"
NO_SCORE = "no score"
NO_DESCRIPTION = "no description: "


def undescribed(candidate: Candidate) -> ChatFailure | None:
    """Why a candidate has a panel without a caption, if it has."""
    return candidate.first.failure or candidate.second.failure


def without_description(candidate: Candidate, failure: ChatFailure, judge: Model) -> Reject:
    """A candidate that could not be captioned, so it was not judged."""
    pair = _pair(candidate, None, judge)
    return Reject(pair=pair, outcome="failed", reason=f"{NO_DESCRIPTION}{failure.reason}", words=_words(failure))


def copied(candidate: Candidate, judge: Model) -> Reject:
    """A candidate that is nearly one picture twice, so it was not judged."""
    return Reject(pair=_pair(candidate, None, judge), outcome="rejected", reason=NEAR_COPY)


def settle(
    candidate: Candidate, verdict: Verdict | ChatFailure, judge: Model, min_score: float = 0.0
) -> tuple[Pair, Pair] | Reject:
    """What a judged candidate becomes: pairs in both orders, or a reject.

    Args:
        candidate: that was judged.
        verdict: or why there is none.
        judge: who judged.
        min_score: from which on it is kept, where it was judged the same.
    """
    if isinstance(verdict, ChatFailure):
        pair = _pair(candidate, None, judge)
        return Reject(pair=pair, outcome="failed", reason=f"no verdict: {verdict.reason}", words=_words(verdict))
    pair = _pair(candidate, verdict, judge)
    if not verdict.same:
        return Reject(pair=pair, outcome="rejected", reason=DIFFERENT)
    if refusal := refused(pair.score, min_score):
        return Reject(pair=pair, outcome=refusal.outcome, reason=refusal.reason)
    return pair, turned(pair)


@dataclass(frozen=True)
class Refusal:
    """Why a candidate is not kept that was judged the same."""

    outcome: Literal["rejected", "failed"]
    reason: str


def refused(score: float | None, min_score: float) -> Refusal | None:
    """Holds the score of what was judged the same against the one that it must have; 0 asks for none."""
    if not min_score or (score is not None and score >= min_score):
        return None
    return Refusal("failed", NO_SCORE) if score is None else Refusal("rejected", BELOW)


def _pair(candidate: Candidate, verdict: Verdict | None, judge: Model) -> Pair:
    reference, target = candidate.first.panel, candidate.second.panel
    return Pair(
        id=pair_id(reference.id, target.id),
        grid=reference.grid,
        reference_panel=reference.id,
        target_panel=target.id,
        reference=reference.image,
        target=target.image,
        reference_caption=reference.description.caption,
        target_caption=target.description.caption,
        subject=verdict.common_subject if verdict else reference.description.subject,
        first_details=verdict.first_details if verdict else "",
        second_details=verdict.second_details if verdict else "",
        comparison=verdict.comparison if verdict else "",
        judge=judge,
        score=verdict.score if verdict else None,
        agreement=verdict.agreement if verdict else None,
        votes=verdict.votes if verdict else None,
    )


def _words(failure: ChatFailure) -> str:
    return "; ".join(part for part in (failure.detail, failure.text) if part)
