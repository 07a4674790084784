"""The table as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

from dsd.evaluate.measure import METRICS, Scores
from dsd.files import write_atomic

TITLES = {
    "identity": "identity",
    "prompt_following": "prompt following",
    "diversity": "diversity",
    "copy": "copy score",
    "seconds_per_image": "seconds a picture",
    "prepare_seconds": "seconds a subject",
}


def as_dict(scores: Sequence[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """``{method: {metric: {"mean", "low", "high"}}}``."""
    return {row.name: {metric: row.estimate(metric).as_dict() for metric in METRICS} for row in scores}


def as_csv(scores: Sequence[Scores]) -> str:
    """One line a method, three columns a metric."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", *(f"{metric}_{part}" for metric in METRICS for part in ("mean", "low", "high"))])
    for row in scores:
        estimates = [row.estimate(metric).as_dict() for metric in METRICS]
        writer.writerow([row.name, *(e[part] for e in estimates for part in ("mean", "low", "high"))])
    return out.getvalue()


def as_markdown(scores: Sequence[Scores]) -> str:
    """A table with means and intervals."""
    lines = ["| method | " + " | ".join(TITLES[metric] for metric in METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for row in scores:
        lines.append(f"| {row.name} | " + " | ".join(str(row.estimate(metric)) for metric in METRICS) + " |")
    return "\n".join(lines) + "\n"


def write(scores: Sequence[Scores], folder: Path) -> None:
    """Writes ``table.json``, ``table.csv``, ``table.md`` and each subject's values in ``subjects.json``."""
    write_atomic(folder / "table.json", json.dumps(as_dict(scores), indent=2) + "\n")
    write_atomic(folder / "table.csv", as_csv(scores))
    write_atomic(folder / "table.md", as_markdown(scores))
    values = {row.name: dict(row.values) for row in scores}
    write_atomic(folder / "subjects.json", json.dumps(values) + "\n")
