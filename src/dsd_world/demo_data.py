"""What the demo's dataset and training run say of themselves, in the shapes that evaluation and the report want."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from dsd.curate.pairs import NEAR_COPY
from dsd.data.records import Pair
from dsd.data.store import DatasetReader
from dsd.evaluate.agreement import JudgedPair
from dsd.evaluate.report import PairView

_SHOWN = 9  # kept pairs in the report, and as many rejected ones


def judged_once(dataset: Path) -> Iterator[tuple[Pair, bool]]:
    """Every pair that was judged, in one of its two orders, and whether it was kept.

    Near-copies are left out: they are rejected for being too much the same picture, not for another identity.
    """
    reader = DatasetReader(dataset)
    for pair in _unordered(reader):
        yield pair, True
    for reject in reader.rejects():
        if reject.outcome == "rejected" and reject.reason != NEAR_COPY:
            yield reject.pair, False


def judged_pairs(dataset: Path) -> Iterator[JudgedPair]:
    """Every pair that was judged, once, as `dsd.evaluate.agreement` takes them."""
    for pair, kept in judged_once(dataset):
        yield JudgedPair(first=pair.reference, second=pair.target, grid=pair.grid, kept=kept)


def pair_views(dataset: Path) -> Iterator[PairView]:
    """Some kept pairs of different sheets, then as many rejected ones."""
    reader = DatasetReader(dataset)
    for pair in islice(_one_a_grid(_unordered(reader)), _SHOWN):
        yield PairView(first=pair.reference, second=pair.target, kept=True, words=_words(pair))
    rejects = {reject.pair.id: reject for reject in reader.rejects()}
    for pair in islice(_one_a_grid(reject.pair for reject in rejects.values()), _SHOWN):
        reject = rejects[pair.id]
        words = {**_words(pair), "unusable reply": reject.words}
        yield PairView(first=pair.reference, second=pair.target, kept=False, reason=reject.reason, words=words)


def training_curves(metrics: Path) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """(step, loss) of training, and (step, held-out loss), from a run's ``metrics.jsonl``."""
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    curves = [[(line["step"], line[name]) for line in lines if name in line] for name in ("loss", "held_out_loss")]
    return curves[0], curves[1]


def _unordered(reader: DatasetReader) -> Iterator[Pair]:
    """Kept pairs in one of their two orders, the first of the dataset."""
    seen: set[frozenset[str]] = set()
    for pair in reader.pairs():
        panels = frozenset((pair.reference_panel, pair.target_panel))
        if panels not in seen:
            seen.add(panels)
            yield pair


def _one_a_grid(pairs: Iterable[Pair]) -> Iterator[Pair]:
    seen: set[str] = set()
    for pair in pairs:
        if pair.grid not in seen:
            seen.add(pair.grid)
            yield pair


def _words(pair: Pair) -> dict[str, str]:
    return {
        "subject": pair.subject,
        "first": pair.first_details,
        "second": pair.second_details,
        "comparison": pair.comparison,
        "caption": pair.target_caption,
    }
