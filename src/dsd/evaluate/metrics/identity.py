"""Identity on a scale that the benchmark anchors: 0 is a stranger of the same description, 1 the true individual."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dsd.encoders import ImageEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known
from dsd.scales import IdentityScale


def identity_scale(encoder: ImageEncoder, subjects: Sequence[Known]) -> IdentityScale:
    """Measures the anchors of a benchmark with an encoder."""
    return IdentityScale.of(
        [known.reference.pooled(encoder) for known in subjects],
        [known.same.pooled(encoder) for known in subjects],
        [known.strangers.pooled(encoder) for known in subjects],
    )


def _on(bench: Bench) -> Measure:
    encoder: ImageEncoder = there(bench.identity)
    scale = identity_scale(encoder, bench.known)

    def measure(known: Known, drawn: Drawn) -> Tensor:
        return scale(known.reference.pooled(encoder), drawn.asked.pooled(encoder))

    return measure


METRIC = Metric(
    title="identity",
    meaning="0 is a stranger of the same description, 1 the true individual",
    needs=needs("identity", "others"),
    on=_on,
    splits=frozenset({"groups", "parts"}),
)
