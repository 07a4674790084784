"""How far a judge can be trusted: its verdicts and its confidence on drawn pairs, where the world knows the truth.

Confidence is the log-odds of the verdict after the judge's own reasons; a threshold on it that falls gives the curve of
precision and recall.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from dsd.chat.local import LocalChat
from dsd.chat.templates import Templates
from dsd.curate.judge import Candidate, majority, questions
from dsd.curate.panels import Described
from dsd.curate.schemas import DirectVerdict, PairVerdict
from dsd.data.records import Description, Panel
from dsd.evaluate.bootstrap import Estimate, bootstrap, bootstrap_auc
from dsd.images import to_pil
from dsd_world.examined_pairs import Pairs

_CURVE_POINTS = 101


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a judge made of pairs.

    Attributes:
        same: its verdicts; None where it gave no usable reply.
        confidence: log-odds of "same", 0 where there is no reply; of several votes the mean.
        tokens: mean length of all replies about a pair.
    """

    same: list[bool | None]
    confidence: list[float]
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
    curve: list[tuple[float, float]]
    n: int
    failed: int
    tokens: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the curve."""
        figures = {name: getattr(self, name) for name in ("accuracy", "precision", "recall", "auc")}
        return {
            "form": self.form, "n": self.n, "failed": self.failed, "tokens": round(self.tokens, 1),
            **{name: None if value is None else value.as_dict() for name, value in figures.items()},
        }  # fmt: skip


def candidate_pairs(pairs: Pairs) -> list[Candidate]:
    """Drawn pairs as curation asks about them."""
    return [pair_of(str(i), *two) for i, two in enumerate(zip(to_pil(pairs.first), to_pil(pairs.second), strict=True))]


def pair_of(name: str, first: Image.Image, second: Image.Image) -> Candidate:
    """Two pictures as curation asks about them; ``name`` decides the question's seed."""
    panels = [
        Panel(grid=name, number=n, image=image, description=Description()) for n, image in enumerate((first, second))
    ]
    return Candidate(*(Described(panel) for panel in panels))


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
    """Asks about every pair, as `dsd.curate.judge.judge_pairs`, and weighs both verdicts after the judge's reasons."""
    asked = questions(pairs, templates, chain_of_thought=chain_of_thought, seed=0, votes=votes)
    said = [r if isinstance(r, PairVerdict | DirectVerdict) else None for r in judge.reply(asked)]
    usable = [i for i, reply in enumerate(said) if reply is not None]
    replies = [reply for reply in said if reply is not None]
    weights = [
        judge.log_likelihoods(
            [asked[i] for i in usable], [json.dumps({**reply.model_dump(), "same": verdict}) for reply in replies]
        )
        for verdict in (True, False)
    ]
    odds = {i: accept - refuse for i, accept, refuse in zip(usable, *weights, strict=True)}
    of_pairs = [range(row * votes, (row + 1) * votes) for row in range(len(pairs))]
    written = sum(judge.tokens([json.dumps(reply.model_dump()) for reply in replies])) if replies else 0
    usable_of_pairs = [[reply.same for i in rows if (reply := said[i]) is not None] for rows in of_pairs]
    return Judged(
        same=[majority(replies) if replies else None for replies in usable_of_pairs],
        confidence=[sum(odds.get(i, 0.0) for i in rows) / votes for rows in of_pairs],
        tokens=written / max(1, len(pairs)),
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
