"""How alike two pictures are as pictures, and from it diversity and copying.

Likeness compares what stands at the same place: cosines of an encoder's features place by place, averaged over places
and levels, as LPIPS does (Zhang et al. 2018, arXiv 1801.03924) without its learnt weights. A method that draws another
individual each time, or noise, is diverse too: read diversity and copying beside identity.
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


def diversity(pictures: Sequence[Float[Tensor, "s r d p"]]) -> Float[Tensor, " s"]:
    """One minus the mean likeness of the pairs among ``r`` pictures of one prompt; 0 when all are the same."""
    repeats = pictures[0].size(1)
    pairs = [(i, j) for i in range(repeats) for j in range(i)]
    alike = [likeness([p[:, i] for p in pictures], [p[:, j] for p in pictures]) for i, j in pairs]
    return 1 - torch.stack(alike).mean(0)


def vendi(pictures: Sequence[Float[Tensor, "s r d p"]]) -> Float[Tensor, " s"]:
    """Vendi score (Friedman and Dieng 2023, arXiv 2210.02410) of the ``r`` pictures of one prompt, with likeness as
    kernel.

    The effective number of different pictures: 1 when all are the same, ``r`` when none is like another.
    """
    repeats = pictures[0].size(1)
    rows = [
        torch.stack([likeness([p[:, i] for p in pictures], [p[:, j] for p in pictures]) for j in range(repeats)], 1)
        for i in range(repeats)
    ]
    kernel = torch.stack(rows, 1) / repeats
    eigenvalues = torch.linalg.eigvalsh(kernel.double()).clamp(min=1e-12)
    return (-(eigenvalues * eigenvalues.log()).sum(1)).exp().float()


def copy_score(to_reference: Float[Tensor, "s k"], truth_to_reference: Float[Tensor, "s k"]) -> Float[Tensor, "s k"]:
    """How much of the way from an honest picture to a copy of the reference each picture goes.

    0 is the likeness to the reference that the true individual in the asked scene has, 1 is the reference itself;
    below 0 is less like the reference than the truth is.

    Args:
        to_reference: likeness of the pictures to their references.
        truth_to_reference: likeness of the truths to them.
    """
    room = (1 - truth_to_reference).mean()
    return (to_reference - truth_to_reference) / room
