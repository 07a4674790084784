"""Judged candidates to rows: what is kept, in both orders, and what is not, with the reason."""

from __future__ import annotations

from dsd.chat.protocol import ChatFailure
from dsd.curate.judge import Candidate
from dsd.data.records import Model, Pair, Reject, Verdict, content_id

NEAR_COPY = "nearly the same picture"
DIFFERENT = "not the same individual"


def undescribed(candidate: Candidate) -> ChatFailure | None:
    """Why a candidate has a panel without a caption, if it has."""
    return candidate.first.failure or candidate.second.failure


def without_description(candidate: Candidate, failure: ChatFailure, judge: Model) -> Reject:
    """A candidate that could not be captioned, so it was not judged."""
    pair = _pair(candidate, None, judge)
    return Reject(pair=pair, outcome="failed", reason=f"no description: {failure.reason}", words=_words(failure))


def copied(candidate: Candidate, judge: Model) -> Reject:
    """A candidate that is nearly one picture twice, so it was not judged."""
    return Reject(pair=_pair(candidate, None, judge), outcome="rejected", reason=NEAR_COPY)


def settle(candidate: Candidate, verdict: Verdict | ChatFailure, judge: Model) -> tuple[Pair, Pair] | Reject:
    """What a judged candidate becomes: pairs in both orders, or a reject."""
    if isinstance(verdict, ChatFailure):
        pair = _pair(candidate, None, judge)
        return Reject(pair=pair, outcome="failed", reason=f"no verdict: {verdict.reason}", words=_words(verdict))
    pair = _pair(candidate, verdict, judge)
    if not verdict.same:
        return Reject(pair=pair, outcome="rejected", reason=DIFFERENT)
    turned = Verdict(
        common_subject=verdict.common_subject,
        first_details=verdict.second_details,
        second_details=verdict.first_details,
        comparison=verdict.comparison,
        same=True,
    )
    return pair, _pair(Candidate(candidate.second, candidate.first), turned, judge)


def _pair(candidate: Candidate, verdict: Verdict | None, judge: Model) -> Pair:
    reference, target = candidate.first.panel, candidate.second.panel
    return Pair(
        id=content_id("pair", reference.id, target.id),
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
    )


def _words(failure: ChatFailure) -> str:
    return "; ".join(part for part in (failure.detail, failure.text) if part)
