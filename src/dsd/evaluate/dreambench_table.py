"""The table of DreamBench++: what was measured here, and beside it, marked as quoted, what its paper published."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dsd.evaluate.dreambench_judge import ASPECTS, Score, product, summarise
from dsd.files import write_atomic
from dsd.train import environment


@dataclass(frozen=True)
class Quoted:
    """A row of the paper's main table, judged by GPT-4o; this project did not measure it."""

    method: str
    concept_preservation: float
    prompt_following: float
    product: float


QUOTED = (
    Quoted("DreamBooth LoRA, SDXL", 0.598, 0.865, 0.517),
    Quoted("IP-Adapter ViT-G, SDXL", 0.593, 0.640, 0.380),
    Quoted("Emu2, SDXL", 0.528, 0.690, 0.364),
    Quoted("DreamBooth, SD v1.5", 0.494, 0.721, 0.356),
    Quoted("IP-Adapter-Plus ViT-H, SDXL", 0.833, 0.413, 0.344),
    Quoted("BLIP-Diffusion, SD v1.5", 0.547, 0.495, 0.271),
    Quoted("Textual Inversion, SD v1.5", 0.378, 0.624, 0.236),
)
"""Peng et al., arXiv 2406.16855, main table: overall columns."""


def as_dict(scores: Mapping[str, Sequence[Score]], judge: str) -> dict[str, object]:
    """The table with every summary of every method, its commit and its judge."""
    rows = []
    for method, of_method in scores.items():
        for aspect in ASPECTS:
            summary = summarise(of_method, aspect)
            if summary is not None:
                row = {"method": method, "metric": aspect, **summary.mean.as_dict(), "n": summary.judged}
                seeds = sorted({score.repeat for score in of_method})
                kinds = {kind: round(mean, 4) for kind, mean in summary.by_kind.items()}
                more = {"dropped": summary.dropped, "deviation": round(summary.deviation, 4), "by_kind": kinds}
                rows.append(row | {"seeds": seeds} | more)
    quoted = [vars(row) for row in QUOTED]
    return {"table": "dreambench", "commit": environment.commit(), "judge": judge, "rows": rows, "quoted": quoted}


def as_markdown(scores: Mapping[str, Sequence[Score]]) -> str:
    """One line a method, then the published ones."""
    head = ("method", "concept preservation", "prompt following", "product", "debiased preservation", "dropped")
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---|" * (len(head) - 1)]
    for method, of_method in scores.items():
        preservation, debiased, following = (summarise(of_method, aspect) for aspect in ASPECTS)
        both = "" if preservation is None or following is None else f"{product(preservation, following):.3f}"
        dropped = sum(score.score is None for score in of_method)
        cells = [str(s.mean) if s is not None else "" for s in (preservation, following, debiased)]
        lines.append(f"| {method} | {cells[0]} | {cells[1]} | {both} | {cells[2]} | {dropped} of {len(of_method)} |")
    lines += [f"| {row.method} (quoted) | {' | '.join(_figures(row))} | | |" for row in QUOTED]
    return "\n".join(lines) + "\n"


def quoted_as_markdown() -> str:
    """The published rows alone."""
    lines = ["| method (quoted) | concept preservation | prompt following | product |", "|---|---|---|---|"]
    lines += [f"| {row.method} | {' | '.join(_figures(row))} |" for row in QUOTED]
    return "\n".join(lines) + "\n"


def _figures(row: Quoted) -> list[str]:
    return [f"{x:.3f}" for x in (row.concept_preservation, row.prompt_following, row.product)]


def write(scores: Mapping[str, Sequence[Score]], folder: Path, judge: str) -> None:
    """Writes ``table.json`` and ``table.md``."""
    write_atomic(folder / "table.json", json.dumps(as_dict(scores, judge), indent=2) + "\n")
    write_atomic(folder / "table.md", as_markdown(scores))
