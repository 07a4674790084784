"""The table as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsd.evaluate.claims import Finding, examine
from dsd.evaluate.measure import METRICS, Scores
from dsd.files import write_atomic
from dsd.train import environment

TITLES = {
    "identity": "identity",
    "prompt_following": "prompt following",
    "diversity": "diversity",
    "copy": "copy score",
    "seconds_per_image": "seconds a picture",
    "prepare_seconds": "seconds a subject",
}


def by_method(scores: Sequence[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """``{method: {metric: {"mean", "low", "high"}}}``."""
    return {row.name: {metric: row.estimate(metric).as_dict() for metric in METRICS} for row in scores}


def as_dict(scores: Sequence[Scores], findings: Sequence[Finding], name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """A line a number, with how many subjects and which training seeds it rests on, and what became of the claims."""
    rows = [
        {"method": row.name, "metric": metric, **row.estimate(metric).as_dict(), "n": len(row.values[metric])}
        | {"seeds": list(seeds)}
        for row in scores
        for metric in METRICS
    ]
    claims = [finding.as_dict() for finding in findings]
    return {"table": name, "commit": environment.commit(), "rows": rows, "claims": claims}


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


def claims_as_markdown(findings: Sequence[Finding]) -> str:
    """A table of claims, or nothing where there are none."""
    if not findings:
        return ""
    lines = ["| claim | paired difference | holds |", "|---|---|---|"]
    lines += [f"| {f.claim} | {f.difference} | {'yes' if f.holds else 'no'} |" for f in findings]
    return "\n".join(lines) + "\n"


def write(scores: Sequence[Scores], folder: Path, name: str = "main", seeds: Sequence[int] = (0,)) -> list[Finding]:
    """Writes ``table.json``, ``table.csv``, ``table.md`` and each subject's values in ``subjects.json``.

    Args:
        scores: the rows.
        folder: to write to.
        name: of the table.
        seeds: of the trainings that the rows rest on.

    Returns:
        What became of the paper's claims.
    """
    findings = examine(scores)
    write_atomic(folder / "table.json", json.dumps(as_dict(scores, findings, name, seeds), indent=2) + "\n")
    write_atomic(folder / "table.csv", as_csv(scores))
    write_atomic(folder / "table.md", "\n".join(filter(None, [as_markdown(scores), claims_as_markdown(findings)])))
    values = {row.name: dict(row.values) for row in scores}
    write_atomic(folder / "subjects.json", json.dumps(values) + "\n")
    return findings
