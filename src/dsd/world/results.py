"""All tables as one document, with what is needed to make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dsd.evaluate.dreambench_table import quoted_as_markdown
from dsd.evaluate.tables import title
from dsd.files import write_atomic

_SHOWN = (
    "identity", "prompt_following", "copy", "diversity", "clip_t", "prepare_seconds", "seconds_per_image", "peak_mib",
)  # fmt: skip
"""Columns of the document; table.csv has them all."""
_READ = """A cell is a mean over held-out individuals (and trainings, where there are several) with its 95 % bootstrap
interval: individuals and trainings are resampled. Identity is 0 for a stranger of the same description and 1 for the
true individual, by tiny-dino; prompt following is the share of pictures that tiny-clip finds nearest to their own
prompt among eight; copy is 0 for a picture as like the reference as the truth is, and 1 for the reference itself. A
claim holds when its whole paired interval lies on its side and p, corrected for all claims of the table (Holm), is
below 0.05; the win rate is the share of individuals on which it holds."""
_DIGITS = {"peak_mib": 0}
_TITLES = {"main": "Main table", "ablations": "Ablations", "budget": "Error budget"}


def write_results(out: Path, path: Path, command: str) -> None:
    """Writes the document from the tables that lie in a folder.

    Args:
        out: folder of tables, as `dsd.world.tables.make_table` leaves it.
        path: of the document.
        command: that makes the tables again.
    """
    parts = [_head(out, command)]
    for name in _TITLES:
        file = out / name / "table.json"
        if file.exists():
            parts.append(_table(json.loads(file.read_text()), out / name))
    parts.append(
        "## DreamBench++\n\nNeeds the benchmark's pictures, real weights and a judge, so nothing is measured here: "
        "`dsd evaluate dreambench --data FOLDER --judge openai:MODEL@URL` makes the table. The published rows that it "
        "prints beside, quoted from arXiv 2406.16855:\n\n" + quoted_as_markdown()
    )
    write_atomic(path, "\n".join(parts))


def _head(out: Path, command: str) -> str:
    config = json.loads((out / "config.json").read_text())
    train, ablation = config["train"], config["ablation_train"]
    return (
        f"# Results\n\nMade by `{command}` in the drawn world, on the embedded models; every number is measured.\n\n"
        f"{_READ}\n\n{config['subjects']} individuals x 4 prompts. Main table: trainings of {train['steps']} steps of "
        f"{train['batch_size']} pairs. Ablations and error budget: {ablation['steps']} steps on "
        f"{config['ablation_pairs']} pairs.\n"
    )


def _table(table: Mapping[str, Any], folder: Path) -> str:
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in table["rows"]:
        rows.setdefault(row["method"], {})[row["metric"]] = row
    lines = [
        f"## {_TITLES[table['table']]}\n\nAt commit {table['commit']}.\n",
        "| method | " + " | ".join(title(metric) for metric in _SHOWN) + " | n | seeds |",
        "|---|" + "---|" * (len(_SHOWN) + 2),
    ]
    for name, metrics in rows.items():
        any_metric = next(iter(metrics.values()))
        cells = [_cell(metric, metrics[metric]) for metric in _SHOWN if metric in metrics]
        seeds = " ".join(map(str, any_metric["seeds"]))
        lines.append(f"| {name} | {' | '.join(cells)} | {any_metric['n']} | {seeds} |")
    if table["claims"]:
        lines += ["", "| claim | paired difference | corrected p | win rate | holds |", "|---|---|---|---|---|"]
        lines += [_claim(claim) for claim in table["claims"]]
    more = folder / "more.md"
    return "\n".join([*lines, *(["", more.read_text().rstrip()] if more.exists() else [])]) + "\n"


def _claim(claim: Mapping[str, Any]) -> str:
    difference = f"{claim['difference']:.3f} [{claim['low']:.3f}, {claim['high']:.3f}]"
    holds = "yes" if claim["holds"] else "no"
    return f"| {claim['claim']} | {difference} | {claim['p']:.4f} | {claim['win_rate']:.2f} | {holds} |"


def _cell(metric: str, row: Mapping[str, Any]) -> str:
    digits = _DIGITS.get(metric, 2)
    return f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
