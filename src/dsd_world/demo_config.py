"""What the demo is told: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from dsd.curate.config import CurateConfig
from dsd.evaluate.config import EvaluateConfig
from dsd.limits import require_within
from dsd.sampling import Sampling
from dsd.train.config import TrainConfig
from dsd_world.recipe import SAMPLING, tiny


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Settings of the demo. The defaults take eight to ten minutes on two CPU cores.

    Attributes:
        curate: phases 1 and 2; its captions are written by the demo itself.
        train: phase 3; its base is also the text-only teacher of the comparison.
        shipped_student: a trained adapter to compare with; None leaves it out.
        subjects: held-out individuals, each asked for under four prompts.
        sampling: of students and teacher in the comparison.
        evaluate: what measures; nothing else in the loop uses it.
    """

    curate: CurateConfig = field(default_factory=lambda: tiny().curate)
    train: TrainConfig = field(default_factory=lambda: replace(tiny().train, steps=500))
    shipped_student: str | None = "embedded:tiny-student"
    subjects: int = 32
    sampling: Sampling = SAMPLING
    evaluate: EvaluateConfig = field(default_factory=lambda: replace(tiny().evaluate, apart=False))

    def __post_init__(self) -> None:
        require_within("subjects", self.subjects, 1)
