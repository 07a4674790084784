"""What drawing takes."""

from __future__ import annotations

import torch

from dsd.evaluate.metrics.protocol import Metric, needs


def _column(name: str, title: str, meaning: str, digits: int) -> Metric:
    return Metric(
        title=title,
        meaning=meaning,
        needs=needs("costs"),
        on=lambda bench: lambda known, drawn: torch.tensor([drawn.costs[name]]) if name in drawn.costs else None,
        digits=digits,
    )


SECONDS_PER_IMAGE = _column("seconds_per_image", "seconds a picture", "wall clock of drawing, batched", 3)
PREPARE_SECONDS = _column(
    "prepare_seconds",
    "seconds a subject",
    "wall clock of fitting the method to a subject before its first picture; 0 is zero-shot",
    3,
)
PEAK_MIB = _column(
    "peak_mib",
    "peak MiB",
    "most memory, of the GPU where there is one, else of a process that holds nothing but this method",
    0,
)
