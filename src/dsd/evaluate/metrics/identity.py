"""Identity on a scale that the benchmark itself anchors: 0 a stranger of the same description, 1 the true individual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class IdentityScale:
    """Anchors of the scale.

    Attributes:
        stranger: ``(subjects,)``, mean cosine of each reference with strangers of the same description.
        span: how much higher, averaged over subjects, the true individual's cosine is. A single span keeps a subject
            with a look-alike stranger from being divided by almost nothing.
    """

    stranger: Float[Tensor, " subjects"]
    span: float

    @classmethod
    def of(
        cls,
        references: Float[Tensor, "subjects d"],
        same: Float[Tensor, "subjects k d"],
        strangers: Float[Tensor, "subjects m d"],
    ) -> IdentityScale:
        """Measures the anchors on normalised features.

        Raises:
            ValueError: when strangers look as similar as the true individuals: the encoder cannot tell them apart.
        """
        low = torch.einsum("sd,smd->sm", references, strangers).mean(1)
        high = torch.einsum("sd,skd->sk", references, same).mean(1)
        span = (high - low).mean().item()
        if span <= 0:
            raise ValueError("the identity encoder finds strangers as similar as the true individuals")
        return cls(low, span)

    def __call__(
        self, references: Float[Tensor, "subjects d"], pictures: Float[Tensor, "subjects k d"]
    ) -> Float[Tensor, "subjects k"]:
        """Identity of pictures of each subject; 0 and 1 are the anchors' means, values outside are possible."""
        cosines = torch.einsum("sd,skd->sk", references, pictures)
        return (cosines - self.stranger[:, None]) / self.span
