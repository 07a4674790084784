"""Mean cosines of pictures with their reference or their prompt: DINO-I, DINOv2-I and CLIP-I, and CLIP-T.

The metrics of DreamBooth's evaluation (Ruiz et al., arXiv 2208.12242, section 4.1). Features are normalised.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def with_reference(references: Float[Tensor, "s d"], pictures: Float[Tensor, "s k d"]) -> Float[Tensor, " s"]:
    """Of each subject's pictures with its reference."""
    return (references[:, None] * pictures).sum(2).mean(1)


def with_prompts(pictures: Float[Tensor, "s k d"], prompts: Float[Tensor, "s k d"]) -> Float[Tensor, " s"]:
    """Of each picture with its own prompt."""
    return (pictures * prompts).sum(2).mean(1)
