"""Eight subjects in four scenes: all that a data engine without captions and without a language model draws."""

from __future__ import annotations

from dsd_world.individuals import KINDS, PATTERNS, Individuals

SUBJECTS = (
    "red plain cat with a hat",
    "blue striped cat",
    "green bellied bear with a scarf",
    "purple plain bear",
    "yellow striped rabbit with a bow",
    "pink bellied rabbit",
    "orange plain mug",
    "teal striped mug",
)
"""Of three of six characters and one of three objects, in three of five patterns."""
SCENES = (
    "smiling on the left at the beach",
    "sad in the middle in the forest",
    "surprised on the right in the snow",
    "smiling in the middle at night",
)
OTHER_KINDS, OTHER_PATTERNS = "other kinds", "other patterns"
"""Groups of individuals of whom `SUBJECTS` has none of the kind, or of the pattern."""


def groups_beside(who: Individuals) -> list[tuple[str, ...]]:
    """For each individual which of `OTHER_KINDS` and `OTHER_PATTERNS` it belongs to."""
    words = {word for subject in SUBJECTS for word in subject.split()}
    return [
        (*([] if KINDS[kind] in words else [OTHER_KINDS]), *([] if PATTERNS[pattern] in words else [OTHER_PATTERNS]))
        for kind, pattern in zip(who.kind.tolist(), who.pattern.tolist(), strict=True)
    ]
