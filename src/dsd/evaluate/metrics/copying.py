"""How near pictures come to being copies of the reference; read it beside identity."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.encoders import ImageEncoder
from dsd.evaluate.metrics.likeness import likeness
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Known, Pictures


def copy_score(
    to_reference: Float[Tensor, "*shape"], truth_to_reference: Float[Tensor, "*shape"], room: Float[Tensor, ""]
) -> Float[Tensor, "*shape"]:
    """How much of the way from an honest picture to a copy of the reference each picture goes.

    0 is the likeness to the reference that the true individual in the asked scene has, 1 is the reference itself;
    below 0 is less like the reference than the truth is.

    Args:
        to_reference: likeness of the pictures to their references.
        truth_to_reference: likeness of the truths to them.
        room: what the truths of the whole benchmark lack of being copies, on average.
    """
    return (to_reference - truth_to_reference) / room


def _on(bench: Bench) -> Measure:
    encoder: ImageEncoder = there(bench.identity)

    def to_reference(known: Known, pictures: Pictures) -> Tensor:
        count = len(pictures.images)
        return likeness(
            pictures.levels(encoder), [level.expand(count, -1, -1) for level in known.reference.levels(encoder)]
        )

    truths = {known.subject.id: to_reference(known, known.truths) for known in bench.known}
    room = 1 - torch.cat(list(truths.values())).mean()
    return lambda known, drawn: copy_score(to_reference(known, drawn.asked), truths[known.subject.id], room)


METRIC = Metric(
    title="copy score",
    meaning="0 as like the reference as the truth is, 1 the reference itself",
    needs=needs("identity", "truths"),
    on=_on,
)
