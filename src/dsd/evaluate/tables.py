"""The table as JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dsd.evaluate.claims import PAPER, Claim, Finding, examine
from dsd.evaluate.metrics.registry import metric_of
from dsd.evaluate.scores import Scores, from_plain, plain
from dsd.files import write_atomic
from dsd.train import environment


def title(metric: str) -> str:
    """A column's heading."""
    return metric_of(metric).title


def columns(scores: Sequence[Scores]) -> list[str]:
    """The metrics that every row has."""
    return [metric for metric in scores[0].metrics if all(metric in row.metrics for row in scores)] if scores else []


def by_method(scores: Sequence[Scores]) -> dict[str, dict[str, dict[str, float]]]:
    """``{method: {metric: {"mean", "low", "high"}}}``."""
    return {row.name: {metric: row.estimate(metric).as_dict() for metric in row.metrics} for row in scores}


def as_dict(
    scores: Sequence[Scores], findings: Sequence[Finding], name: str, models: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """A line a number, with how many subjects and which training seeds it rests on, and what became of the claims.

    Args:
        scores: the rows.
        findings: of the claims.
        name: of the table.
        models: the revisions of those that every number rests on, by name.
    """
    rows = [
        {"method": row.name, "metric": metric, **row.estimate(metric).as_dict(), "n": row.count(metric)}
        | {"seeds": row.seeds_of(metric)}
        for row in scores
        for metric in row.metrics
    ]
    claims = [finding.as_dict() for finding in findings]
    made_with = {"commit": environment.commit(), "models": dict(models or {})}
    return {"table": name, **made_with, "rows": rows, "claims": claims}


def as_csv(scores: Sequence[Scores]) -> str:
    """One line a method, three columns a metric."""
    out, metrics = io.StringIO(), columns(scores)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["method", *(f"{metric}_{part}" for metric in metrics for part in ("mean", "low", "high"))])
    for row in scores:
        estimates = [row.estimate(metric).as_dict() for metric in metrics]
        writer.writerow([row.name, *(e[part] for e in estimates for part in ("mean", "low", "high"))])
    return out.getvalue()


def as_markdown(scores: Sequence[Scores]) -> str:
    """A table with means and intervals."""
    metrics = columns(scores)
    rows = [
        [row.name, *(str(row.estimate(metric)) for metric in metrics), " ".join(map(str, row.seeds))] for row in scores
    ]
    return markdown(["method", *map(title, metrics), "seeds"], rows)


def claims_as_markdown(findings: Sequence[Finding]) -> str:
    """A table of claims, or nothing where there are none."""
    if not findings:
        return ""
    rows = [
        [f.claim, str(f.difference), f"{f.p:.4f}", f"{f.win_rate:.2f}", "yes" if f.holds else "no"] for f in findings
    ]
    return markdown(["claim", "paired difference", "corrected p", "win rate", "holds"], rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a Markdown table."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]]) + "\n"


def write(
    scores: Sequence[Scores],
    folder: Path,
    name: str = "main",
    claims: Sequence[Claim] = PAPER,
    models: Mapping[str, str] | None = None,
    more: str = "",
) -> list[Finding]:
    """Writes ``table.json``, ``table.csv``, ``table.md`` and each subject's values in ``subjects.json``.

    Args:
        scores: the rows.
        folder: to write to.
        name: of the table.
        claims: to test.
        models: see `as_dict`.
        more: Markdown that ``table.md`` ends with.

    Returns:
        What became of the claims.
    """
    findings = examine(scores, claims)
    write_atomic(folder / "table.json", json.dumps(as_dict(scores, findings, name, models), indent=2) + "\n")
    write_atomic(folder / "table.csv", as_csv(scores))
    write_atomic(
        folder / "table.md", "\n".join(filter(None, [as_markdown(scores), claims_as_markdown(findings), more]))
    )
    values = {row.name: {"seeds": list(row.seeds), "runs": plain(row.runs)} for row in scores}
    write_atomic(folder / "subjects.json", json.dumps(values) + "\n")
    return findings


def read(folder: Path) -> list[Scores]:
    """The rows as `write` left them."""
    values = json.loads((folder / "subjects.json").read_text(encoding="utf-8"))
    return [Scores(name=name, runs=from_plain(row["runs"]), seeds=row["seeds"]) for name, row in values.items()]
