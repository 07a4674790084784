"""Scales of features: identity between a stranger's and the individual's own, and whether a prompt fits best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from dsd.errors import UserError


class CannotTell(UserError):
    """An encoder does not tell individuals apart, or there are none to tell apart."""


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
            CannotTell: when strangers look as similar as the true individuals: the encoder cannot tell them apart.
        """
        low, high = (
            torch.cat([(of_one @ of_other.T).flatten() for of_one, of_other in zip(references, others, strict=True)])
            .mean()
            .item()
            for others in (strangers, same)
        )
        if high <= low:
            raise CannotTell(
                f"the identity encoder finds strangers (cosine {low:.3f}) as similar to the references as the true "
                f"individuals ({high:.3f}); give one that tells individuals apart"
            )
        return cls(low, high)

    def __call__(self, reference: Float[Tensor, "1 d"], pictures: Float[Tensor, "k d"]) -> Float[Tensor, " k"]:
        """Identity of pictures of a subject."""
        return self.of_cosines(pictures @ reference[0])

    def of_cosines(self, cosines: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Identity of pairs of pictures by their cosine; 0 and 1 are the anchors, values outside are possible."""
        return (cosines - self.stranger) / (self.same - self.stranger)


def follows_prompt(pictures: Float[Tensor, "n d"], sentences: Float[Tensor, "n k d"]) -> Bool[Tensor, " n"]:
    """Whether each picture's own prompt scores highest.

    Args:
        pictures: normalised features.
        sentences: normalised features of the prompt (first) and its distractors.
    """
    scores = torch.einsum("nd,nkd->nk", pictures, sentences)
    return (scores[:, :1] > scores[:, 1:]).all(1)
