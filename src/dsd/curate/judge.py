"""Are two panels the same individual? A rule for near-copies, then a vision-language model with its reasons.

Each unordered pair of a sheet is judged once. With the compact templates a question is one user message of both
pictures and `judge` (or `judge directly`); see `templates/README.md`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import cast

import imagehash
import numpy as np
from PIL import Image

from dsd.chat.protocol import ChatFailure, ChatModel, ChatRequest, Decision, Reply
from dsd.chat.templates import Template, Templates
from dsd.curate.contradiction import CONTRADICTION, contradiction
from dsd.curate.panels import Described
from dsd.curate.schemas import DirectVerdict, PairVerdict
from dsd.curate.seeds import derive_seed
from dsd.data.records import Model, Verdict, Votes
from dsd.errors import UserError

VOTING_TEMPERATURE = 0.7
"""At which each of several votes thinks; Wang et al. use 0.5 to 0.7."""
_SCORE_DIGITS = 6
"""Of a score: further ones differ from machine to machine, and say nothing."""
NEAR_COPY_BITS = 8
"""Perceptual hashes (64 bits) of the same picture differ in no more."""


@dataclass(frozen=True)
class Candidate:
    """Two panels of one sheet."""

    first: Described
    second: Described


def candidates(panels: Sequence[Described]) -> list[Candidate]:
    """All unordered pairs of a sheet's panels."""
    return [Candidate(first, second) for first, second in combinations(panels, 2)]


def near_copy(first: Image.Image, second: Image.Image, threshold: float) -> bool:
    """Whether two panels are nearly the same picture, which would teach copying.

    Both signs are needed: flat pictures share a hash, and dark ones have small differences.

    Args:
        first: a panel.
        second: another one of the same size.
        threshold: mean absolute difference of pixels, as a share of the full range.
    """
    difference = np.abs(np.asarray(first, dtype=np.float32) - np.asarray(second, dtype=np.float32)).mean() / 255
    if difference >= threshold:
        return False
    return imagehash.phash(first) - imagehash.phash(second) <= NEAR_COPY_BITS


def judge_pairs(
    pairs: Sequence[Candidate],
    judge: ChatModel,
    templates: Templates,
    *,
    chain_of_thought: bool,
    seed: int,
    votes: int = 1,
) -> list[Verdict | ChatFailure]:
    """Has each pair judged.

    Args:
        pairs: of one unit.
        judge: a vision-language model.
        templates: of the question.
        chain_of_thought: both subjects are described before the decision; otherwise the decision comes alone, and the
            verdict's reasons are the descriptions of the panels.
        seed: of the unit.
        votes: how often each pair is judged: at once and greedily, or by the majority of so many sampled chains of
            thought (self-consistency, Wang et al. 2022, arXiv 2203.11171); a tie is not enough to be the same.

    Returns:
        For each pair the verdict, with the reasons of a vote that the majority shares, or why there is none.
    """
    asked = questions(pairs, templates, chain_of_thought=chain_of_thought, seed=seed, votes=votes)
    return read_verdicts(pairs, judge.reply(asked), templates, chain_of_thought=chain_of_thought, votes=votes)


def read_verdicts(
    pairs: Sequence[Candidate],
    replies: Sequence[Reply],
    templates: Templates,
    *,
    chain_of_thought: bool,
    votes: int = 1,
) -> list[Verdict | ChatFailure]:
    """What the replies to `questions` say; arguments and result as of `judge_pairs`."""
    tolerated = _template(templates, chain_of_thought).tolerated
    return [
        elected([_verdict(pair, reply, tolerated) for reply in replies[row * votes : (row + 1) * votes]])
        for row, pair in enumerate(pairs)
    ]


def elected(votes: Sequence[Verdict | ChatFailure]) -> Verdict | ChatFailure:
    """What several votes on a pair say together.

    Args:
        votes: at least one, each with the probability that it gave "same" as its score, if it gave one.

    Returns:
        The first vote that says what most usable ones say, with score, agreement and counts of all (see
        `dsd.data.records.Verdict`); the first failure where none is usable.
    """
    usable = [vote for vote in votes if isinstance(vote, Verdict)]
    if not usable:
        return votes[0]
    said = [vote.same for vote in usable]
    same, several = majority(said), len(votes) > 1
    scores = [float(v.same) if v.score is None and several else v.score for v in usable]
    known = [score for score in scores if score is not None]
    return replace(
        next(vote for vote in usable if vote.same == same),
        score=round(fmean(known), _SCORE_DIGITS) if known else None,
        agreement=said.count(same) / len(said) if several else None,
        votes=Votes(same=said.count(True), other=said.count(False), failed=len(votes) - len(usable)),
    )


def require_scores(verdicts: Sequence[Verdict | ChatFailure], judge: str, min_score: float) -> None:
    """Refuses a judge that says of nothing how sure it is, where this is to decide.

    Raises:
        UserError: there are verdicts, and none has a score.
    """
    scores = [verdict.score for verdict in verdicts if isinstance(verdict, Verdict)]
    if scores and not any(score is not None for score in scores):
        raise UserError(
            f"min_score is {min_score:g}, but {judge} does not say how sure it is; let it vote several times (such as "
            "--curate.votes 5), take a server that gives log-probabilities, or give --curate.min-score 0"
        )


def majority(votes: Sequence[bool]) -> bool:
    """Whether more than half of the votes are for it."""
    return 2 * sum(votes) > len(votes)


def questions(
    pairs: Sequence[Candidate], templates: Templates, *, chain_of_thought: bool, seed: int, votes: int = 1
) -> list[ChatRequest]:
    """What `judge_pairs` asks: as many questions a pair as there are votes, one after the other."""
    template = _template(templates, chain_of_thought)
    return [
        template.request(
            {"first": p.first.panel.image, "second": p.second.panel.image},
            PairVerdict if chain_of_thought else DirectVerdict,
            seed=derive_seed(seed, "judge", p.first.panel.id, p.second.panel.id, *([str(vote)] if votes > 1 else [])),
            temperature=VOTING_TEMPERATURE if votes > 1 else 0.0,
            decides="same",
        )
        for p in pairs
        for vote in range(votes)
    ]


def judge_of(judge: ChatModel, templates: Templates, chain_of_thought: bool, votes: int = 1) -> Model:
    """The provenance of verdicts."""
    label = _template(templates, chain_of_thought).label + (f", {votes} votes" if votes > 1 else "")
    return Model(name=judge.name, revision=judge.revision, template=label)


def _template(templates: Templates, chain_of_thought: bool) -> Template:
    return templates["judge" if chain_of_thought else "judge_direct"]


def _verdict(pair: Candidate, reply: Reply, tolerated: float) -> Verdict | ChatFailure:
    if isinstance(reply, ChatFailure):
        return reply
    score = cast(Decision, reply).probability
    if isinstance(reply, PairVerdict):
        if reply.same and (wrong := contradiction(reply, tolerated)):
            return ChatFailure(CONTRADICTION, wrong, reply.model_dump_json())
        return Verdict(**reply.model_dump(), score=score)
    first, second = pair.first.panel.description, pair.second.panel.description
    return Verdict(
        common_subject=first.subject if first.subject == second.subject else "",
        first_details=first.details,
        second_details=second.details,
        comparison="",
        same=cast(DirectVerdict, reply).same,
        score=score,
    )
