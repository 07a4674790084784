"""What the rows of a dataset say in numbers: who made it, how often subjects come again, how sure the judge was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dsd.audit.folder import Folder
from dsd.audit.rows import rows_of
from dsd.curate.contradiction import misquoted
from dsd.curate.diversity import words_of
from dsd.data.records import Verdict
from dsd.data.rows import Kind

_OF_MODELS = ("", "_revision", "_template")
_OF_SHEETS = ("id", "subject", *(f"{who}{part}" for who in ("writer", "teacher") for part in _OF_MODELS))
_COMMON = (
    "reference_panel", "target_panel", "grid", "subject", "first_details", "second_details", "comparison", "score",
    "agreement", *(f"judge{part}" for part in _OF_MODELS),
)  # fmt: skip
Made = tuple[str, str, str, str]
"""Who made rows: what it did, its name, its revision, and its template."""


@dataclass(frozen=True)
class Subject:
    """A subject of grid prompts.

    Attributes:
        words: as it was first written.
        sheets: how many grid prompts name it.
        kept: candidates that were kept of them.
    """

    words: str
    sheets: int
    kept: int


@dataclass(kw_only=True)
class Figures:
    """What was counted of the rows of a dataset.

    Attributes:
        models: rows by who made them.
        subjects: grid prompts by their subject's plain words.
        captions: kept panels by their caption.
        kept_scores: of the judge, of candidates that were kept.
        other_scores: of those that were judged and not kept.
        agreements: of several votes about a candidate.
        compared: verdicts that compare anything.
        misquoting: of them those with a point that is not what the descriptions say.
    """

    models: Counter[Made] = field(default_factory=Counter)
    subjects: Counter[str] = field(default_factory=Counter)
    captions: Counter[str] = field(default_factory=Counter)
    kept_scores: list[float] = field(default_factory=list)
    other_scores: list[float] = field(default_factory=list)
    agreements: list[float] = field(default_factory=list)
    compared: int = 0
    misquoting: int = 0

    def __post_init__(self) -> None:
        self._words: dict[str, str] = {}
        self._of_sheet: dict[str, str] = {}
        self._kept: Counter[str] = Counter()
        self._seen: set[frozenset[str]] = set()
        self._panels: dict[str, str] = {}

    @classmethod
    def of(cls, folder: Folder) -> Figures:
        """Those of a dataset.

        Raises:
            UserError: a file is missing or damaged.
        """
        figures = cls()
        for row in _rows(folder, "grids", _OF_SHEETS):
            figures._sheet(row)
        for row in _rows(folder, "pairs", ("reference_caption", "target_caption", *_COMMON)):
            figures._judged(row, kept=True)
        for row in _rows(folder, "rejects", _COMMON):
            figures._judged(row, kept=False)
        figures.captions.update(figures._panels.values())
        return figures

    def frequent(self, most: int) -> Sequence[Subject]:
        """The subjects that most grid prompts name."""
        return [Subject(self._words[key], count, self._kept[key]) for key, count in self.subjects.most_common(most)]

    def _sheet(self, row: Mapping[str, Any]) -> None:
        if row["subject"] is None:
            return
        key = words_of(row["subject"])
        self.subjects[key] += 1
        self._words.setdefault(key, row["subject"])
        self._made("writes grid prompts", row, "writer")
        if row["id"] is not None:
            self._of_sheet[row["id"]] = key
            self._made("draws sheets", row, "teacher")

    def _judged(self, row: Mapping[str, Any], *, kept: bool) -> None:
        if kept:
            self._panels |= {row[f"{side}_panel"]: row[f"{side}_caption"] for side in ("reference", "target")}
        panels = frozenset((row["reference_panel"], row["target_panel"]))
        if kept and panels in self._seen:  # in its other order
            return
        self._seen.add(panels)
        self._made("judges and describes", row, "judge")
        if kept:
            self._kept[self._of_sheet.get(row["grid"], "")] += 1
        if row["score"] is not None:
            (self.kept_scores if kept else self.other_scores).append(row["score"])
        if row["agreement"] is not None:
            self.agreements.append(row["agreement"])
        if row["comparison"]:
            self.compared += 1
            self.misquoting += bool(misquoted(_verdict(row)))

    def _made(self, does: str, row: Mapping[str, Any], who: str) -> None:
        name, revision, template = (row[f"{who}{part}"] or "" for part in _OF_MODELS)
        self.models[does, name, revision, template] += 1


def _rows(folder: Folder, kind: Kind, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    for shard in folder.of(kind):
        yield from rows_of(folder.path / shard.path, columns)


def _verdict(row: Mapping[str, Any]) -> Verdict:
    """What a row tells of the judge's reasons."""
    return Verdict(
        common_subject=row["subject"] or "",
        first_details=row["first_details"] or "",
        second_details=row["second_details"] or "",
        comparison=row["comparison"],
        same=True,
    )
