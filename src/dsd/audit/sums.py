"""What the rows of a dataset add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from dsd.curate.funnel import Funnel
from dsd.data.rows import Kind

NO_PROMPT = "no grid prompt: "
"""How the reason of a caption begins that has no grid prompt."""
COLUMNS: dict[Kind, tuple[str, ...]] = {
    "grids": ("reason",),
    "pairs": ("reference_panel", "target_panel"),
    "rejects": ("outcome", "reason"),
    "films": (),
}
"""What has to be known of a row."""


class Sums:
    """Counts rows.

    Attributes:
        rows: by kind.
    """

    def __init__(self) -> None:
        self.rows: Counter[Kind] = Counter()
        self._sheets: Counter[str] = Counter()
        self._kept: set[frozenset[str]] = set()
        self._outcomes: Counter[tuple[str, str]] = Counter()

    def add(self, kind: Kind, row: Mapping[str, Any]) -> None:
        """Counts a row, of which `COLUMNS` are looked at."""
        self.rows[kind] += 1
        if kind == "grids":
            self._sheets[row["reason"] or ""] += 1
        elif kind == "rejects":
            self._outcomes[row["outcome"] or "", row["reason"] or ""] += 1
        elif kind == "pairs":
            self._kept.add(frozenset((row["reference_panel"] or "", row["target_panel"] or "")))

    def funnel(self) -> Funnel:
        """The funnel of which these are the rows; candidates that have none are not in it."""
        reasons = dict(sorted(self._sheets.items()))
        unwritten = {n.removeprefix(NO_PROMPT): count for n, count in reasons.items() if n.startswith(NO_PROMPT)}
        refused = {n: count for n, count in reasons.items() if n and not n.startswith(NO_PROMPT)}
        outcomes = dict(sorted(self._outcomes.items()))
        return Funnel(
            captions=self.rows["grids"],
            grid_prompts=self.rows["grids"] - sum(unwritten.values()),
            prompts_failed=unwritten,
            sheets=self._sheets[""],
            sheets_refused=refused,
            candidates=len(self._kept) + self._outcomes.total(),
            kept=len(self._kept),
            rejected={reason: count for (outcome, reason), count in outcomes.items() if outcome == "rejected"},
            failed={reason: count for (outcome, reason), count in outcomes.items() if outcome != "rejected"},
            pairs=self.rows["pairs"],
            films=self.rows["films"] or None,
        )
