"""Means with 95 % intervals by resampling subjects (Efron 1979, percentile intervals)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean and its 95 % interval.

    Attributes:
        mean: over subjects.
        low, high: the 2.5th and 97.5th percentile of the mean over resampled subjects.
    """

    mean: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """For JSON, rounded to four decimals."""
        return {"mean": round(self.mean, 4), "low": round(self.low, 4), "high": round(self.high, 4)}

    def __str__(self) -> str:
        return f"{self.mean:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(values: Sequence[float], *, groups: Sequence[str] | None = None, seed: int = 0) -> Estimate:
    """Mean of all values with an interval over independent groups.

    Args:
        values: one a subject, or one a measurement where ``groups`` says which belong together.
        groups: what each value belongs to; whole groups are resampled, because values within one are not independent.
        seed: of the resampling.

    Raises:
        ValueError: without values.
    """
    if len(values) == 0:
        raise ValueError("no values to average")
    x = np.asarray(values, dtype=np.float64)
    labels = np.arange(len(x)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    sums, counts = np.bincount(labels, weights=x), np.bincount(labels)
    picks = np.random.default_rng(seed).integers(0, len(sums), size=(_ROUNDS, len(sums)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(x.mean()), float(low), float(high))
