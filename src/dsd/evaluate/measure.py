"""From drawn pictures to a row of the table: every metric that the benchmark and the encoders allow."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from dsd.evaluate.metrics import cosines
from dsd.evaluate.metrics.protocol import Bench, Measure, Metric
from dsd.evaluate.metrics.registry import METRICS
from dsd.evaluate.scores import Scores
from dsd.evaluate.seen import Drawn, Known

_NONE = math.nan


class Ruler:
    """Measures methods on a benchmark; what is the same for all of them is computed once.

    Args:
        bench: the benchmark and what sees its pictures.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.metrics = _met(bench)
        self._measures: dict[str, Measure] = {
            name: metric.on(bench) for name, metric in self.metrics.items() if metric.on is not None
        }

    @torch.inference_mode()
    def measure(self, name: str, drawn: Sequence[Drawn]) -> Scores:
        """Scores the pictures of one training of a method.

        Args:
            name: of the row.
            drawn: subject by subject, in the benchmark's order.
        """
        known = self.bench.known
        by_picture = {
            metric: [_cpu(measure(who, what)) for who, what in zip(known, drawn, strict=True)]
            for metric, measure in self._measures.items()
        }
        columns: dict[str, list[float]] = {}
        for metric, values in by_picture.items():
            columns[metric] = [_mean(of_subject) for of_subject in values]
            columns |= dict(_apart(metric, self.metrics[metric], values, known))
        for metric, given in self.metrics.items():
            if given.product is not None:
                first, second = (columns[part] for part in given.product)
                columns[metric] = [a * b for a, b in zip(first, second, strict=True)]
        ordered = [*(m for m in self.metrics if m in columns), *(m for m in columns if m not in self.metrics)]
        return Scores(name=name, runs=[{metric: columns[metric] for metric in ordered}])


def _met(bench: Bench) -> dict[str, Metric]:
    """The metrics whose needs are met; those of further encoders stand where theirs is."""
    metrics: dict[str, Metric] = {}
    for name, metric in METRICS.items():
        if name == "clip_i":
            metrics |= {column: cosines.likeness(column, encoder) for column, encoder in bench.likeness.items()}
        asked_for = not bench.shown or name in bench.shown or not metric.needs & {"identity", "agreement"}
        if metric.needs <= bench.has and asked_for:
            metrics[name] = metric
    return metrics


def _apart(
    name: str, metric: Metric, values: Sequence[Tensor | None], known: Sequence[Known]
) -> Iterator[tuple[str, list[float]]]:
    """The same values over the subjects of each group, and over the pictures of each part of their prompts."""
    if "groups" in metric.splits:
        for group in sorted({group for who in known for group in who.subject.groups}):
            members = [group in who.subject.groups for who in known]
            yield f"{name}/{group}", [_mean(v) if m else _NONE for v, m in zip(values, members, strict=True)]
    if "parts" in metric.splits:
        for part in dict.fromkeys(part for who in known for part in who.subject.parts):
            masks = [who.subject.parts.get(part) for who in known]
            yield f"{name}/{part}", [_masked(v, mask) for v, mask in zip(values, masks, strict=True)]


def _masked(values: Tensor | None, mask: Sequence[bool] | None) -> float:
    return _NONE if values is None or mask is None else _mean(values[torch.tensor(mask)])


def _mean(values: Tensor | None) -> float:
    """Of the pictures that have a value."""
    return _NONE if values is None or values.isnan().all() else float(values.nanmean())


def _cpu(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.float().cpu()
