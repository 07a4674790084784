"""How much pictures of one subject under one prompt differ.

A method that draws another individual each time, or noise, is diverse too: read it beside identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from dsd.encoders import ImageEncoder
from dsd.evaluate.metrics.likeness import likeness
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric, needs, there
from dsd.evaluate.seen import Drawn, Known


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


def _by(values: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[Bench], Measure]:
    def on(bench: Bench) -> Measure:
        encoder: ImageEncoder = there(bench.identity)

        def measure(known: Known, drawn: Drawn) -> Tensor:
            return torch.cat([values([level[None] for level in some.levels(encoder)]) for some in drawn.repeated])

        return measure

    return on


DIVERSITY = Metric(
    title="diversity",
    meaning="one minus likeness of pictures under one prompt",
    needs=needs("identity", "repeats"),
    on=_by(diversity),
    digits=3,
)
VENDI = Metric(
    title="Vendi",
    meaning="effective number of different pictures among those under one prompt",
    needs=needs("identity", "repeats"),
    on=_by(vendi),
)
