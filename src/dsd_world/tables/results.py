"""All tables as one document, with what is needed to make them again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsd.evaluate.benchmarks.dreambench import quoted_as_markdown
from dsd.evaluate.claims import Finding
from dsd.evaluate.metrics.registry import COSTS, metric_of
from dsd.evaluate.tables import claims_as_markdown, markdown, title
from dsd.files import write_atomic
from dsd_world.fixed import OTHER_KINDS, OTHER_PATTERNS

_SHOWN = ("identity", "prompt_following", "copy", "diversity", "clip_t")
"""Columns of the document; table.csv has them all."""
_APART = (
    "identity/characters", "identity/objects", "identity/faces", "identity/unmoved", "identity/moved",
    "prompt_following/unmoved", "prompt_following/moved",
)  # fmt: skip
"""Of kinds of subjects, and of pictures in which the subject stands as in the reference or elsewhere."""
_BESIDE = tuple(
    f"{metric}/{group}" for metric in ("identity", "prompt_following") for group in (OTHER_KINDS, OTHER_PATTERNS)
)
"""Of individuals that the ablation without captions and language model never draws."""
_READ = """A cell is a mean over held-out individuals (and trainings, where there are several) with its 95 % bootstrap
interval: individuals and trainings are resampled, so that of a single training tells of individuals alone. Identity
is 0 for a stranger of the same description and 1 for the true individual, by tiny-dino; prompt following is the share
of pictures that tiny-clip finds nearest to their own prompt among eight; copy is 0 for a picture as like the
reference as the truth is, and 1 for the reference itself. A claim holds when its whole paired interval lies on its
side and p, corrected for all claims of the table (Holm), is below 0.05; the win rate is the share of individuals on
which it holds. Seconds and memory are those of one individual after the other when nothing else runs."""
_TITLES = {"main": "Main table", "ablations": "Ablations", "flavours": "Flavours", "budget": "Error budget"}


def write_results(out: Path, path: Path, command: str) -> None:
    """Writes the document from the tables that lie in a folder, and beside it what its numbers rest on.

    Args:
        out: folder of tables, as `dsd_world.tables.table.make_table` leaves it.
        path: of the document; a folder of its name without the ending gets every table as JSON, and for each training
            of a row what was measured of each individual.
        command: that makes the tables again.
    """
    receipts = path.with_suffix("")
    parts = [_head(out, command, receipts.name)]
    for name in _TITLES:
        file = out / name / "table.json"
        if file.exists():
            parts.append(_table(json.loads(file.read_text(encoding="utf-8")), out / name))
    parts.append(
        "## DreamBench++\n\nNeeds the benchmark's pictures, real weights and a judge, so nothing is measured here: "
        "`dsd evaluate dreambench --data FOLDER --judge openai:MODEL@URL` makes the table. The published rows that it "
        "prints beside, quoted from arXiv 2406.16855:\n\n" + quoted_as_markdown()
    )
    write_atomic(path, "\n".join(parts))
    _write_receipts(out, receipts)


def _write_receipts(out: Path, folder: Path) -> None:
    tables = [(out / name / "table.json", f"{name}.json") for name in _TITLES]
    measured = [(file, f"{kind}/{file.name}") for kind in ("scores", "costs") for file in (out / kind).glob("*.json")]
    for file, name in (*tables, *measured):
        if file.exists():
            write_atomic(folder / name, file.read_bytes())


def _head(out: Path, command: str, receipts: str) -> str:
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    train, ablation = config["train"], config["ablation_train"]
    costs = f"; seconds and memory measured on {measured}" if (measured := _machines(out / "costs")) else ""
    return (
        f"# Results\n\nMade by `{command}` in the drawn world, on the embedded models. Every number is measured; "
        f"the folder `{receipts}` has them all, and what each training of each row got for each individual.\n\n"
        f"{_READ}\n\n{config['subjects']} individuals x 4 prompts. Main table: trainings of {train['steps']} steps of "
        f"{train['batch_size']} pairs. Ablations and error budget: {ablation['steps']} steps on "
        f"{config['ablation_pairs']} pairs.\n\nTrained and drawn on {_machines(out / 'scores')}{costs}.\n"
    )


def _machines(folder: Path) -> str:
    files = sorted(folder.glob("*.json"))
    return " and ".join(sorted({json.loads(file.read_text(encoding="utf-8"))["machine"] for file in files}))


def _table(table: Mapping[str, Any], folder: Path) -> str:
    rows: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in table["rows"]:
        rows.setdefault(row["method"], {})[row["metric"]] = row
    claims, more = claims_as_markdown([Finding.from_dict(claim) for claim in table["claims"]]), folder / "more.md"
    weights = ", ".join(f"{name} {revision}" for name, revision in table["models"].items())
    parts = [
        f"## {_TITLES[table['table']]}\n\nAt commit {table['commit']}, with the weights {weights}.\n",
        _columns(rows, _SHOWN),
        _columns(rows, _APART),
        _columns(rows, _BESIDE) if table["table"] == "ablations" else "",
        _columns(rows, COSTS),
        claims,
        more.read_text(encoding="utf-8") if more.exists() else "",
    ]
    return "\n".join(filter(None, parts))


def _columns(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], metrics: Sequence[str]) -> str:
    """A line a method; metrics that the table lacks are left out."""
    metrics = [metric for metric in metrics if all(metric in of_row for of_row in rows.values())]
    if not metrics:
        return ""
    lines = []
    for name, of_row in rows.items():
        counts = [str(of_row[metric]["n"]) for metric in metrics]
        counts = counts[0] if len(set(counts)) == 1 else ", ".join(counts)
        seeds = " ".join(map(str, of_row[metrics[0]]["seeds"]))
        lines.append([name, *(_cell(metric, of_row[metric]) for metric in metrics), counts, seeds])
    return markdown(["method", *map(title, metrics), "n", "seeds"], lines)


def _cell(metric: str, row: Mapping[str, Any]) -> str:
    digits = min(2, metric_of(metric).digits)
    return f"{row['mean']:.{digits}f} [{row['low']:.{digits}f}, {row['high']:.{digits}f}]"
