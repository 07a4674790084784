"""How alike pictures are as pictures: what `diversity`, `vendi` and `copying` are made of.

Likeness compares what stands at the same place: cosines of an encoder's features place by place, averaged over places
and levels, as LPIPS does (Zhang et al. 2018, arXiv 1801.03924) without its learnt weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def likeness(first: Sequence[Float[Tensor, "n d p"]], second: Sequence[Float[Tensor, "n d p"]]) -> Float[Tensor, " n"]:
    """Mean cosine, place by place, of two batches of pictures; 1 for equal pictures.

    Args:
        first, second: a tensor a level, normalised over channels.
    """
    levels = [(a * b).sum(1).mean(1) for a, b in zip(first, second, strict=True)]
    return torch.stack(levels).mean(0)
