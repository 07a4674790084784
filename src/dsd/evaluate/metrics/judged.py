"""What a judge says of the pictures; see `dsd.evaluate.judge`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from dsd.evaluate.judge import Aspect, Judge
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there


def _by(aspect: Aspect) -> Callable[[Bench], Measure]:
    def on(bench: Bench) -> Measure:
        judge: Judge = there(bench.judge)
        return lambda known, drawn: judge.shares(aspect, known, drawn)

    return on


def _dropped(bench: Bench) -> Measure:
    judge: Judge = there(bench.judge)
    return lambda known, drawn: torch.tensor([float(s.score is None) for s in judge.scores(known, drawn)])


PRESERVATION = Metric(
    title="concept preservation",
    meaning="the judge's score of the subject, from 0 to 1",
    needs=needs("judge"),
    on=_by("concept_preservation"),
    splits=frozenset({"groups"}),
)
DEBIASED = Metric(
    title="debiased preservation",
    meaning="the same where a repeated picture scores low",
    needs=needs("judge"),
    on=_by("concept_preservation_debiased"),
    splits=frozenset({"groups"}),
)
FOLLOWING = Metric(
    title="prompt following, judged",
    meaning="the judge's score of how well the prompt is followed, from 0 to 1",
    needs=needs("judge"),
    on=_by("prompt_following"),
    splits=frozenset({"parts"}),
)
PRODUCT = Metric(
    title="product",
    meaning="of the means of concept preservation and of prompt following",
    needs=needs("judge"),
    product=("concept_preservation", "judged_following"),
)
DROPPED = Metric(
    title="dropped replies",
    meaning="share of the judge's replies that hold no score",
    needs=needs("judge"),
    on=_dropped,
)
