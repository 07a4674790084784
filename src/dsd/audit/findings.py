"""What an audit found, gathered by what is the matter, so that a thousand bad rows are one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["wrong", "note"]
LEVELS: tuple[Level, ...] = ("wrong", "note")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is the matter.

    Attributes:
        level: ``wrong`` is not to be trained on; a ``note`` is for a person to judge.
        what: a sentence without its place.
        where: the first place.
        count: how many places.
    """

    level: Level
    what: str
    where: str
    count: int = 1

    def line(self) -> str:
        """The finding as a line of a table."""
        times = f" ({self.count:,} times, this is the first)" if self.count > 1 else ""
        return f"{self.level:<5}  {self.where:<32}  {self.what}{times}"


class Findings:
    """A growing list of findings, each kind of which is counted once."""

    def __init__(self) -> None:
        self._found: dict[tuple[Level, str], tuple[str, int]] = {}

    def wrong(self, where: str, what: str) -> None:
        """Adds what must not be."""
        self._add("wrong", where, what)

    def note(self, where: str, what: str) -> None:
        """Adds what a person should know."""
        self._add("note", where, what)

    def __iter__(self) -> Iterator[Finding]:
        """What is wrong first, each in the order in which it was found."""
        for level in LEVELS:
            for (of, what), (where, count) in self._found.items():
                if of == level:
                    yield Finding(level=level, what=what, where=where, count=count)

    def count(self, level: Level) -> int:
        """How many kinds of a level there are."""
        return sum(of == level for of, _ in self._found)

    def _add(self, level: Level, where: str, what: str) -> None:
        first, count = self._found.get((level, what), (where, 0))
        self._found[level, what] = first, count + 1
