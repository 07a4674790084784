"""Identity on a scale that the benchmark anchors: 0 is a stranger of the same description, 1 the true individual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.errors import UserError
from dsd.evaluate.encoders import ImageEncoder
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known


@dataclass(frozen=True)
class IdentityScale:
    """Anchors of the scale, averaged over subjects: a subject with a look-alike stranger is not divided by nothing.

    Attributes:
        stranger: mean cosine of references with strangers of the same description.
        same: mean cosine of references with further pictures of the true individuals.
    """

    stranger: float
    same: float

    @classmethod
    def of(
        cls,
        references: Sequence[Float[Tensor, "1 d"]],
        same: Sequence[Float[Tensor, "k d"]],
        strangers: Sequence[Float[Tensor, "m d"]],
    ) -> IdentityScale:
        """Measures the anchors on normalised features, subject by subject.

        Raises:
            UserError: when strangers look as similar as the true individuals: the encoder cannot tell them apart.
        """
        low, high = (
            torch.cat([(of_one @ of_other.T).flatten() for of_one, of_other in zip(references, others, strict=True)])
            .mean()
            .item()
            for others in (strangers, same)
        )
        if high <= low:
            raise UserError(
                f"the identity encoder finds strangers (cosine {low:.3f}) as similar to the references as the true "
                f"individuals ({high:.3f}); give one that tells individuals apart"
            )
        return cls(low, high)

    @classmethod
    def by(cls, encoder: ImageEncoder, subjects: Sequence[Known]) -> IdentityScale:
        """Measures the anchors of a benchmark with an encoder."""
        return cls.of(
            [known.reference.pooled(encoder) for known in subjects],
            [known.same.pooled(encoder) for known in subjects],
            [known.strangers.pooled(encoder) for known in subjects],
        )

    def __call__(self, reference: Float[Tensor, "1 d"], pictures: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """Identity of pictures of a subject."""
        return self.of_cosines(pictures @ reference[0])

    def of_cosines(self, cosines: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Identity of pairs of pictures by their cosine; 0 and 1 are the anchors, values outside are possible."""
        return (cosines - self.stranger) / (self.same - self.stranger)


def _on(bench: Bench) -> Measure:
    encoder: ImageEncoder = there(bench.identity)
    scale = IdentityScale.by(encoder, bench.known)

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
