"""Pictures and prompts to begin with: packages that bring a model bring them too, by entry points ``dsd.examples``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dsd.plugins import added


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Somebody to draw.

    Attributes:
        picture: a PNG file.
        words: who it is, as a prompt begins, such as ``a red cat with a hat``.
        scene: how the first prompt goes on.
    """

    picture: Path
    words: str
    scene: str


@dataclass(frozen=True, kw_only=True)
class Examples:
    """What to try with a model.

    Attributes:
        suits: the base models that they are for, as an adapter names its base.
        subjects: references.
        scenes: how a prompt goes on after a subject's words.
        knows: the words that the model was trained on, by kind; empty where a model reads all of a language.
    """

    suits: tuple[str, ...] = ()
    subjects: tuple[Subject, ...] = ()
    scenes: tuple[str, ...] = ()
    knows: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


FOR_ANY = Examples(
    scenes=(
        "at the beach in the evening sun",
        "in a snowy forest, looking back",
        "reading in a small library",
        "as a paper cut-out, on a plain wall",
    )
)
"""Of models that read all of a language and for which no package has examples."""


def examples_for(base: str) -> Examples:
    """The examples of a model.

    Args:
        base: as the model's adapter names its base, such as ``embedded:NAME``.
    """
    for point in added("examples").values():
        examples: Examples = point.load()()
        if base in examples.suits:
            return examples
    return FOR_ANY
