"""Identity on a scale that the benchmark anchors: 0 is a stranger of the same description, 1 the true individual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.errors import UserError


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
        references: Float[Tensor, "subjects d"],
        same: Float[Tensor, "subjects k d"],
        strangers: Float[Tensor, "subjects m d"],
    ) -> IdentityScale:
        """Measures the anchors on normalised features.

        Raises:
            UserError: when strangers look as similar as the true individuals: the encoder cannot tell them apart.
        """
        low, high = (torch.einsum("sd,skd->sk", references, others).mean().item() for others in (strangers, same))
        if high <= low:
            raise UserError(
                f"the identity encoder finds strangers (cosine {low:.3f}) as similar to the references as the true "
                f"individuals ({high:.3f}); give one that tells individuals apart"
            )
        return cls(low, high)

    def __call__(
        self, references: Float[Tensor, "subjects d"], pictures: Float[Tensor, "subjects k d"]
    ) -> Float[Tensor, "subjects k"]:
        """Identity of pictures of each subject."""
        return self.of_cosines(torch.einsum("sd,skd->sk", references, pictures))

    def of_cosines(self, cosines: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Identity of pairs of pictures by their cosine; 0 and 1 are the anchors, values outside are possible."""
        return (cosines - self.stranger) / (self.same - self.stranger)
