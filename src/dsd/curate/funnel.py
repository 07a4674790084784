"""How many there were at each stage, what became of the rest, and the proof that nothing got lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Funnel:
    """Counts of a unit, or of a whole curation.

    Attributes:
        captions: taken into the work.
        grid_prompts: written.
        prompts_failed: captions without one, by reason.
        sheets: cut into panels.
        sheets_refused: drawn and refused, by reason.
        candidates: of the sheets, as the task counts them, such as unordered pairs of panels.
        kept: of them.
        rejected: of them, by reason.
        failed: of them for want of an answer, by reason.
        captions_skipped: rows of the caption file that were not taken, by reason; of the whole curation only.
        pairs: rows that the kept candidates became, such as each pair in both orders.
        films: examples of more than two frames that the pairs became; None where the pairs are trained on.
        left_out: candidates of these sheets that `dsd data` left out, by what it was told; None where it did not.
        diversity: how many subjects and scenes are different, see `dsd.curate.diversity.diversity`; of a finished
            dataset only, for it is no sum over units.
    """

    captions: int = 0
    grid_prompts: int = 0
    prompts_failed: Mapping[str, int] = field(default_factory=dict)
    sheets: int = 0
    sheets_refused: Mapping[str, int] = field(default_factory=dict)
    candidates: int = 0
    kept: int = 0
    rejected: Mapping[str, int] = field(default_factory=dict)
    failed: Mapping[str, int] = field(default_factory=dict)
    captions_skipped: Mapping[str, int] = field(default_factory=dict)
    pairs: int = 0
    films: int | None = None
    left_out: Mapping[str, int] | None = None
    diversity: Mapping[str, int] | None = None

    def __add__(self, other: Funnel) -> Funnel:
        """The sum; what is different in both together is not known of it."""
        return Funnel(
            **{
                f.name: _sum(getattr(self, f.name), getattr(other, f.name))
                for f in fields(self)
                if f.name != "diversity"
            }
        )

    def reconcile(self, candidates: int) -> None:
        """Proves that every caption, sheet and candidate is accounted for.

        Args:
            candidates: of a sheet.

        Raises:
            RuntimeError: something was lost or counted twice; the message holds the sums.
        """
        _require("captions", self.captions, self.grid_prompts + sum(self.prompts_failed.values()))
        _require("grid prompts", self.grid_prompts, self.sheets + sum(self.sheets_refused.values()))
        _require("candidates", self.candidates, candidates * self.sheets)
        parts = self.kept + sum(self.rejected.values()) + sum(self.failed.values())
        parts += sum((self.left_out or {}).values())
        _require("candidates", self.candidates, parts)

    def counts(self) -> dict[str, int]:
        """One number a stage, in order, for tables and charts."""
        return {
            "captions": self.captions,
            "grid prompts": self.grid_prompts,
            "sheets cut": self.sheets,
            "candidates": self.candidates,
            **{f"rejected: {reason}": count for reason, count in self.rejected.items()},
            **{f"failed: {reason}": count for reason, count in self.failed.items()},
            "kept": self.kept,
            "pairs": self.pairs,
            **({} if self.films is None else {"films": self.films}),
            **{f"left out: {what}": count for what, count in (self.left_out or {}).items()},
        }

    @property
    def examples(self) -> int:
        """How many there are to train on: films where they are made, else pairs."""
        return self.pairs if self.films is None else self.films

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Funnel:
        """The inverse of `to_dict`.

        Raises:
            TypeError: other fields than a funnel has.
        """
        return cls(**values)

    def lines(self) -> list[str]:
        """The funnel as text, one stage a line."""
        share = f" ({self.kept / self.candidates:.0%} of them)" if self.candidates else ""
        films = "" if self.films is None else f", {self.films:,} films"
        return [
            f"{self.captions:>8,} captions" + _aside("skipped", self.captions_skipped),
            f"{self.grid_prompts:>8,} grid prompts" + _aside("failed", self.prompts_failed),
            f"{self.sheets:>8,} sheets cut" + _aside("refused", self.sheets_refused),
            f"{self.candidates:>8,} candidates"
            + _aside("rejected", self.rejected)
            + _aside("failed", self.failed)
            + _aside("left out", self.left_out or {}),
            f"{self.kept:>8,} kept{share}, {self.pairs:,} pairs{films} to train on",
            *self._different(),
        ]

    def _different(self) -> list[str]:
        """What of it is different, where anything was written."""
        found = self.diversity or {}
        if not found.get("grid prompts"):
            return []
        again = found["grid prompts"] - found["distinct subjects"]
        return [
            f"{found['kept subjects']:>8,} distinct subjects in what is kept, of {found['distinct subjects']:,} "
            f"written; {again:,} grid prompts ({again / found['grid prompts']:.0%}) name one again, "
            f"{found['repeated prompts']:,} nearly repeat a whole prompt",
            f"{found['kept scenes']:>8,} distinct scenes in what is kept, of {found['distinct scenes']:,} written",
        ]


def _sum(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, int):
        return one + other
    return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in sorted({*one, *other})}


def _require(what: str, whole: int, parts: int) -> None:
    if whole != parts:
        raise RuntimeError(f"the funnel does not add up: {whole} {what}, but {parts} accounted for")


def _aside(word: str, counts: Mapping[str, int]) -> str:
    return f"; {word}: " + ", ".join(f"{count:,} {reason}" for reason, count in counts.items()) if counts else ""
