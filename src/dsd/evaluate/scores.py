"""What a row of a table got, subject by subject, before averaging."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsd.evaluate.bootstrap import Estimate, bootstrap_product, bootstrap_runs
from dsd.evaluate.metrics.registry import METRICS


@dataclass(frozen=True, kw_only=True)
class Scores:
    """A row of the table.

    Attributes:
        name: of the row.
        runs: for each training of the method, for each metric one value a subject, which is not a number where there is
            none; a training may lack metrics that others have.
        seeds: of the trainings.
    """

    name: str
    runs: Sequence[Mapping[str, list[float]]]
    seeds: Sequence[int] = (0,)

    @property
    def metrics(self) -> list[str]:
        """The row's columns: those of which a subject has a value."""
        columns = dict.fromkeys(metric for run in self.runs for metric in run)
        return [m for m in columns if not all(math.isnan(v) for of_run in self.by_run(m) for v in of_run)]

    @property
    def values(self) -> dict[str, list[float]]:
        """For each metric one value a subject: the mean over trainings."""
        return {metric: np.mean(self.by_run(metric), axis=0).tolist() for metric in self.metrics}

    def by_run(self, metric: str) -> list[list[float]]:
        """For each training that has the metric one value a subject."""
        return [list(run[metric]) for run in self.runs if metric in run]

    def seeds_of(self, metric: str) -> list[int]:
        """Of the trainings that have the metric."""
        return [seed for run, seed in zip(self.runs, self.seeds, strict=True) if metric in run]

    def count(self, metric: str) -> int:
        """How many subjects have a value in every training."""
        return len(_whole(self.by_run(metric))[0])

    def estimate(self, metric: str) -> Estimate:
        """Mean over subjects and trainings with its interval; of a product the product of both means."""
        parts = METRICS[metric].product if metric in METRICS else None
        if parts is None:
            return bootstrap_runs(_whole(self.by_run(metric)))
        numbered = [[(f"{n:06d}", v) for n, v in enumerate(self.values[p]) if not math.isnan(v)] for p in parts]
        (first_names, first), (second_names, second) = (zip(*of_part, strict=True) for of_part in numbered)
        return bootstrap_product(first, second, groups=(first_names, second_names))

    @classmethod
    def together(cls, rows: Sequence[Scores]) -> Scores:
        """One row of several trainings of a method."""
        return cls(
            name=rows[0].name,
            runs=[run for row in rows for run in row.runs],
            seeds=[s for row in rows for s in row.seeds],
        )


def in_both(first: list[list[float]], second: list[list[float]]) -> tuple[list[list[float]], list[list[float]]]:
    """The values of two rows of those subjects that have one in every training of both."""
    together = _whole([*first, *second])
    return together[: len(first)], together[len(first) :]


def plain(runs: Sequence[Mapping[str, list[float]]]) -> list[dict[str, list[float | None]]]:
    """Runs for JSON, which has no word for what is not a number."""
    return [{name: [None if math.isnan(v) else v for v in of_one] for name, of_one in run.items()} for run in runs]


def from_plain(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, list[float]]]:
    """The inverse of `plain`."""
    return [{name: [math.nan if v is None else v for v in of_one] for name, of_one in run.items()} for run in runs]


def _whole(values: list[list[float]]) -> list[list[float]]:
    array = np.asarray(values, dtype=np.float64)
    return array[:, ~np.isnan(array).any(0)].tolist()
