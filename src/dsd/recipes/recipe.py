"""What a recipe is: complete configs for each phase, under one name."""

from __future__ import annotations

from dataclasses import dataclass

from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.evaluate.config import EvaluateConfig
from dsd.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Complete settings from captions to an adapter.

    Attributes:
        summary: One line for `--help`.
        curate: Phases 1 and 2.
        train: Phase 3, and how its student is drawn with.
        evaluate: What measures it.
        tflops: Peak of one device that it is made for, in 10^12 operations a second; an H100 in bfloat16 has 989.
        card: Memory of the device that it is made for, in GB; None where it is made for many.
        adapter: The finished student that is drawn with when no other is named: what training writes by default, or one
            that is shipped.
    """

    summary: str
    curate: CurateConfig
    train: TrainConfig
    evaluate: EvaluateConfig
    adapter: str
    tflops: float = 989.0
    card: float | None = None
    funnel: Funnel | None = None
