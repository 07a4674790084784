"""How far a judge can be trusted: its verdicts and its confidence on drawn pairs, where the world knows the truth.

Confidence is the score of its verdicts (`dsd.data.records.Verdict`); a threshold on it that falls gives the curve of
precision and recall.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import BaseModel

from dsd.chat.local import LocalChat
from dsd.chat.templates import Templates
from dsd.curate.contradiction import misquoted
from dsd.curate.judge import Candidate, questions, read_verdicts
from dsd.curate.labelled import pair_of
from dsd.curate.schemas import PairVerdict
from dsd.data.records import Verdict
from dsd.evaluate.bootstrap import Estimate, bootstrap, bootstrap_auc
from dsd.images import to_pil
from dsd_world.examined_pairs import Pairs

_CURVE_POINTS = 101


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge made of pairs.

    Attributes:
        same: its verdicts; None where it gave no usable reply.
        confidence: its score, in [0, 1]; 0.5 where there is none.
        misquoting: of each comparison of descriptions whether a point of it contradicts them, with the number of its
            pair.
        tokens: mean length of all replies about a pair.
    """

    same: list[bool | None]
    confidence: list[float]
    misquoting: list[tuple[bool, int]] = field(default_factory=list)
    tokens: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A judge's figures on pairs whose truth is known.

    Attributes:
        form: with chain of thought or direct.
        accuracy: share of right verdicts; one that gave no usable reply is wrong.
        precision: share of the same among what it accepts; None where it accepts nothing.
        recall: share of what it accepts among the same; None where none are.
        auc: area under the ROC curve of its confidence.
        misquoting: share of comparisons that contradict the descriptions above them, in at least one point; None
            where there are none.
        curve: (recall, precision) at falling thresholds of its confidence.
        n: pairs.
        failed: of them without a usable reply.
        tokens: that the judge wrote for a pair.
    """

    form: str
    accuracy: Estimate
    precision: Estimate | None
    recall: Estimate | None
    auc: Estimate
    misquoting: Estimate | None
    curve: list[tuple[float, float]]
    n: int
    failed: int
    tokens: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the curve."""
        figures = {name: getattr(self, name) for name in ("accuracy", "precision", "recall", "auc", "misquoting")}
        return {
            "form": self.form, "n": self.n, "failed": self.failed, "tokens": round(self.tokens, 1),
            **{name: None if value is None else value.as_dict() for name, value in figures.items()},
        }  # fmt: skip


def candidate_pairs(pairs: Pairs) -> list[Candidate]:
    """Drawn pairs as curation asks about them."""
    return [pair_of(str(i), *two) for i, two in enumerate(zip(to_pil(pairs.first), to_pil(pairs.second), strict=True))]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A way of asking a judge.

    Attributes:
        name: in tables.
        chain_of_thought: see `dsd.curate.judge.judge_pairs`.
        votes: likewise.
    """

    name: str
    chain_of_thought: bool
    votes: int = 1


FORMS = (
    Form(name="chain of thought", chain_of_thought=True),
    Form(name="direct", chain_of_thought=False),
    Form(name="chain of thought, 3 votes", chain_of_thought=True, votes=3),
)
"""The forms that are compared."""


def judged(
    judge: LocalChat, templates: Templates, pairs: Sequence[Candidate], *, chain_of_thought: bool, votes: int = 1
) -> Judged:
    """Asks about every pair, as `dsd.curate.judge.judge_pairs`."""
    asked = questions(pairs, templates, chain_of_thought=chain_of_thought, seed=0, votes=votes)
    replies = judge.reply(asked)
    found = read_verdicts(pairs, replies, templates, chain_of_thought=chain_of_thought, votes=votes)
    verdicts = [one if isinstance(one, Verdict) else None for one in found]
    said = [json.dumps(reply.model_dump()) for reply in replies if isinstance(reply, BaseModel)]
    return Judged(
        same=[None if one is None else one.same for one in verdicts],
        confidence=[0.5 if one is None or one.score is None else one.score for one in verdicts],
        misquoting=[
            (misquoted(reply) > 0, at // votes) for at, reply in enumerate(replies) if isinstance(reply, PairVerdict)
        ],
        tokens=sum(judge.tokens(said)) / max(1, len(pairs)) if said else 0.0,
    )


def examine(form: str, verdicts: Judged, same: Sequence[bool], groups: Sequence[str] | None = None) -> Examined:
    """A judge's figures against the truth.

    Args:
        form: the form of its questions.
        verdicts: from `judged`.
        same: the truth; both kinds of pairs are there.
        groups: what each pair belongs to, such as its sheet; intervals are over these, the ROC area's over pairs.
    """
    labels: Sequence[str] | Sequence[int] = range(len(same)) if groups is None else groups
    rows = list(zip(verdicts.same, same, labels, strict=True))
    accepted = [(float(truth), label) for said, truth, label in rows if said]
    true = [(float(said), label) for said, truth, label in rows if truth and said is not None]
    confidence, truth = torch.tensor(verdicts.confidence), torch.tensor(list(same))
    return Examined(
        form=form,
        accuracy=bootstrap([float(said == truth) for said, truth, _ in rows], groups=labels),
        precision=_share(accepted),
        recall=_share(true),
        auc=bootstrap_auc(confidence[truth].tolist(), confidence[~truth].tolist()),
        misquoting=_share([(float(wrong), labels[at]) for wrong, at in verdicts.misquoting]),
        curve=_curve(confidence, truth),
        n=len(rows),
        failed=sum(said is None for said in verdicts.same),
        tokens=verdicts.tokens,
    )


def _share(rows: Sequence[tuple[float, Any]]) -> Estimate | None:
    return bootstrap([value for value, _ in rows], groups=[label for _, label in rows]) if rows else None


def _curve(confidence: torch.Tensor, truth: torch.Tensor) -> list[tuple[float, float]]:
    order = confidence.argsort(descending=True)
    right = truth[order].float().cumsum(0)
    kept = torch.arange(1, len(truth) + 1)
    places = torch.linspace(0, len(truth) - 1, min(_CURVE_POINTS, len(truth))).round().long()
    recall, precision = right / right[-1], right / kept
    return [(round(recall[i].item(), 4), round(precision[i].item(), 4)) for i in places]
