"""Means with 95 % intervals by resampling subjects and trainings (Efron 1979), and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ROUNDS = 2000
_FLIPS = 10_000


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


def bootstrap(
    values: Sequence[float], *, groups: Sequence[str] | Sequence[int] | None = None, seed: int = 0
) -> Estimate:
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
    return _estimate(x.mean(), means)


def bootstrap_product(
    first: Sequence[float], second: Sequence[float], *, groups: tuple[Sequence[str], Sequence[str]], seed: int = 0
) -> Estimate:
    """Product of two means with an interval over the groups that their values share.

    Args:
        first, second: the values; there may be more of one than of the other.
        groups: what each of the first and each of the second belongs to; whole groups are resampled.
        seed: of the resampling.
    """
    names = sorted({*groups[0], *groups[1]})
    picks = np.random.default_rng(seed).integers(0, len(names), size=(_ROUNDS, len(names)))
    means = np.ones(_ROUNDS)
    for values, labels in zip((first, second), groups, strict=True):
        places = np.searchsorted(names, labels)
        sums = np.bincount(places, weights=np.asarray(values, dtype=np.float64), minlength=len(names))
        counts = np.bincount(places, minlength=len(names))
        means *= sums[picks].sum(1) / np.maximum(counts[picks].sum(1), 1)
    return _estimate(np.mean(first) * np.mean(second), means)


def bootstrap_runs(values: Sequence[Sequence[float]], *, seed: int = 0) -> Estimate:
    """Mean over several trainings on the same subjects; subjects and trainings are resampled, each for itself.

    Args:
        values: for each training one value a subject, in the same order.
        seed: of the resampling.
    """
    means = _resampled(np.asarray(values, dtype=np.float64), *_picks(len(values), len(values[0]), seed))
    return _estimate(np.mean(values), means)


def bootstrap_difference(
    first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], factor: float = 1.0, *, seed: int = 0
) -> Estimate:
    """Mean of ``first - factor * second`` with an interval, paired by subject; trainings are not paired.

    Args:
        first, second: for each training one value a subject; the subjects and their order are the same in both.
        factor: that the second is multiplied by.
        seed: of the resampling.
    """
    one, other = (np.asarray(values, dtype=np.float64) for values in (first, second))
    runs, subjects = _picks(len(one), one.shape[1], seed)
    other_runs, _ = _picks(len(other), one.shape[1], seed + 1)
    means = _resampled(one, runs, subjects) - factor * _resampled(other, other_runs, subjects)
    return _estimate(one.mean() - factor * other.mean(), means)


def bootstrap_auc(positive: Sequence[float], negative: Sequence[float], *, seed: int = 0) -> Estimate:
    """Area under the ROC curve: how often a positive score is above a negative one, ties counting half.

    Args:
        positive, negative: scores; both are resampled, each for itself.
        seed: of the resampling.
    """
    above = np.sign(np.subtract.outer(np.asarray(positive), np.asarray(negative))) / 2 + 0.5
    means = _resampled(above, *_picks(len(positive), len(negative), seed))
    return _estimate(above.mean(), means)


def sign_flip_test(differences: Sequence[float], *, seed: int = 0) -> float:
    """Two-sided p of a paired randomisation test (Fisher 1935): is the mean difference over subjects other than 0.

    Args:
        differences: one a subject.
        seed: of the random signs.
    """
    x = np.asarray(differences, dtype=np.float64)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(_FLIPS, len(x)))
    as_far = np.abs(signs @ x) >= abs(x.sum()) - 1e-12
    return float((1 + as_far.sum()) / (1 + _FLIPS))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being several (Holm 1979), in the given order."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _estimate(mean: float | np.floating, resampled: np.ndarray) -> Estimate:
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(float(mean), float(low), float(high))


def _picks(runs: int, subjects: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(0, runs, size=(_ROUNDS, runs)), generator.integers(0, subjects, size=(_ROUNDS, subjects))


def _resampled(values: np.ndarray, runs: np.ndarray, subjects: np.ndarray) -> np.ndarray:
    """Means of so many resampled tables: all pairs of the picked trainings and subjects."""
    shares = np.stack([np.bincount(picked, minlength=len(values)) for picked in runs]) / runs.shape[1]
    weights = np.stack([np.bincount(picked, minlength=values.shape[1]) for picked in subjects]) / subjects.shape[1]
    return ((shares @ values) * weights).sum(1)
