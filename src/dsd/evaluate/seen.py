"""Pictures with what encoders see in them: those of a benchmark's subjects, and those that a method drew of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from PIL import Image
from torch import Tensor

from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.evaluate.benchmark import Subject


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
        key: names the benchmark with its content and the method with its settings, as a path.
    """

    asked: Pictures
    repeated: Sequence[Pictures] = ()
    costs: dict[str, float] = field(default_factory=dict)
    key: str = ""
