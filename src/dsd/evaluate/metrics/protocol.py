"""What a metric is: a file of this folder that says its title, its meaning, what it needs, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from torch import Tensor

from dsd.baselines.faces import Faces
from dsd.evaluate.benchmark import Benchmark, Subject
from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder

if TYPE_CHECKING:
    from dsd.evaluate.judge import Judge

Need = Literal["identity", "agreement", "faces", "judge", "others", "truths", "distractors", "repeats", "costs"]
"""What a table may lack: an encoder that tells individuals apart; one that tells whether words fit a picture; a model
that finds faces; a judge; and of the benchmark further pictures of each subject and some of strangers, the truth,
sentences that do not fit, several pictures of a prompt. Costs are only known where they were measured."""
Split = Literal["groups", "parts"]


class Pictures:
    """Some pictures with what encoders see in them, each seen once.

    Args:
        images: of one subject.
    """

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self.images = list(images)
        self._seen: dict[int, Tensor] = {}

    def pooled(self, encoder: ImageEncoder) -> Tensor:
        """Normalised features, ``(k, d)``."""
        return self._once(encoder, encoder.pooled)

    def agreed(self, encoder: PictureTextEncoder) -> Tensor:
        """Normalised features in the space of sentences, ``(k, d)``."""
        return self._once(encoder, encoder.pictures)

    def levels(self, encoder: ImageEncoder) -> list[Tensor]:
        """Features at every place, ``(k, d, p)`` a level; they are large, and not kept."""
        return encoder.levels(self.images)

    def _once(self, encoder: object, see: Callable[[Sequence[Image.Image]], Tensor]) -> Tensor:
        if id(encoder) not in self._seen:
            self._seen[id(encoder)] = see(self.images)
        return self._seen[id(encoder)]


@dataclass(frozen=True)
class Known:
    """A subject of a benchmark, ready to be compared with.

    Attributes:
        subject: of the benchmark.
    """

    subject: Subject

    @cached_property
    def reference(self) -> Pictures:
        """The one that methods are given."""
        return Pictures([self.subject.reference])

    @cached_property
    def same(self) -> Pictures:
        """Further ones."""
        return Pictures(self.subject.same)

    @cached_property
    def strangers(self) -> Pictures:
        """Of others of the same description."""
        return Pictures(self.subject.strangers)

    @cached_property
    def truths(self) -> Pictures:
        """The true individual in each prompt's scene."""
        return Pictures(self.subject.truths)


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """What a method drew of one subject.

    Attributes:
        asked: a picture a prompt, in their order.
        repeated: for each prompt that was asked for several times its pictures, the first one included.
        costs: what drawing took, by the column; empty where that is not known.
        key: names the method and its settings, as a file name.
    """

    asked: Pictures
    repeated: Sequence[Pictures] = ()
    costs: dict[str, float] = field(default_factory=dict)
    key: str = ""


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
