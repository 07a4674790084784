"""What an audit found: each file by its name, rows by what is the matter, so that a thousand bad ones are one line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Level = Literal["wrong", "note"]
LEVELS: tuple[Level, ...] = ("wrong", "note")


@dataclass(frozen=True)
class Row:
    """A row as a place.

    Attributes:
        number: from 1.
        file: that it is in; empty where there are no files.
    """

    number: int
    file: str = ""

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}" if self.file else f"row {self.number}"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is the matter.

    Attributes:
        level: ``wrong`` is not to be trained on; a ``note`` is for a person to judge.
        what: a sentence without its place.
        where: the file, or the first of the rows.
        count: how many rows, or 1.
    """

    level: Level
    what: str
    where: str
    count: int = 1

    def line(self) -> str:
        """The finding as a line of a table."""
        times = f" ({self.count:,} rows, this is the first)" if self.count > 1 else ""
        return f"{self.level:<5}  {self.where:<32}  {self.what}{times}"


class Findings:
    """A growing list of findings, in which rows are counted by what is the matter with them."""

    def __init__(self) -> None:
        self._found: dict[tuple[Level, str, str], tuple[str, int]] = {}

    def wrong(self, where: str | Row, what: str) -> None:
        """Adds what must not be."""
        self._add("wrong", where, what)

    def note(self, where: str | Row, what: str) -> None:
        """Adds what a person should know."""
        self._add("note", where, what)

    def __iter__(self) -> Iterator[Finding]:
        """What is wrong first, each in the order in which it was found."""
        for level in LEVELS:
            for (of, what, _), (where, count) in self._found.items():
                if of == level:
                    yield Finding(level=level, what=what, where=where, count=count)

    def count(self, level: Level) -> int:
        """How many of a level there are."""
        return sum(of == level for of, _, _ in self._found)

    def _add(self, level: Level, where: str | Row, what: str) -> None:
        key = level, what, "" if isinstance(where, Row) else where
        first, count = self._found.get(key, (str(where), 0))
        self._found[key] = first, count + 1
