"""What a metric is: a file of this folder that says its title, its meaning, what it needs, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from torch import Tensor

from dsd.baselines.faces import Faces
from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.judge import Judge
from dsd.evaluate.seen import Drawn, Known

Need = Literal["identity", "agreement", "faces", "judge", "others", "truths", "distractors", "repeats", "costs"]
"""What a table may lack: an encoder that tells individuals apart; one that tells whether words fit a picture; a model
that finds faces; a judge; and of the benchmark further pictures of each subject and some of strangers, the truth,
sentences that do not fit, several pictures of a prompt. Costs are only known where they were measured."""
Split = Literal["groups", "parts"]


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A benchmark and what sees its pictures; what is left out, no metric that needs it is measured with.

    Attributes:
        benchmark: the subjects.
        identity: tells individuals apart.
        agreement: tells whether words fit a picture.
        likeness: further vision models by the column that each gives.
        faces: finds faces.
        judge: looks and gives scores.
        shown: the metrics of `identity` and `agreement` to measure, by name; empty for all.
    """

    benchmark: Benchmark
    identity: ImageEncoder | None = None
    agreement: PictureTextEncoder | None = None
    likeness: dict[str, ImageEncoder] = field(default_factory=dict)
    faces: Faces | None = None
    judge: Judge | None = None
    shown: tuple[str, ...] = ()

    @cached_property
    def known(self) -> list[Known]:
        """The subjects."""
        return [Known(subject) for subject in self.benchmark.subjects]

    @cached_property
    def has(self) -> set[str]:
        """The needs that are met."""
        there = {name for name in ("identity", "agreement", "faces", "judge") if getattr(self, name) is not None}
        subjects = self.benchmark.subjects
        of_subjects = {
            "others": all(s.same and s.strangers for s in subjects),
            "truths": all(s.truths for s in subjects),
            "distractors": all(s.distractors for s in subjects),
            "repeats": self.benchmark.repeats > 1,
            "costs": True,
        }
        return there | {name for name, holds in of_subjects.items() if holds}


Measure = Callable[[Known, Drawn], Tensor | None]
"""Values of what was drawn of a subject: one a picture asked for, or a single one; None where there is none."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A column of the table.

    Attributes:
        title: its heading.
        meaning: a sentence on how to read it; empty where the title says it.
        needs: without which it is left out.
        on: prepares it for a benchmark.
        digits: shown after the point.
        splits: the parts of the subjects (``groups``) or of their prompts (``parts``) that are also measured apart.
        product: the two metrics that this is the product of, of their means; then there is nothing else to measure.
    """

    title: str
    meaning: str = ""
    needs: frozenset[Need] = frozenset()
    on: Callable[[Bench], Measure] | None = None
    digits: int = 2
    splits: frozenset[Split] = frozenset()
    product: tuple[str, str] | None = None


def needs(*names: Need) -> frozenset[Need]:
    """What a metric needs."""
    return frozenset(names)


def there(part: Any) -> Any:
    """A part of a bench that a metric's needs say is there."""
    assert part is not None
    return part
