"""The table of DreamBench++: what was measured here, and beside it, marked as quoted, what its paper published."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dsd.evaluate import tables
from dsd.evaluate.claims import PAPER, Finding, examine
from dsd.evaluate.dreambench.judge import ASPECTS, Score, product, summarise
from dsd.evaluate.measure import Scores

_COLUMNS = {
    "identity": "concept_preservation_debiased",
    "prompt_following": "prompt_following",
    "prepare_seconds": "prepare_seconds",
}
CLAIMS = tuple(
    dataclasses.replace(
        claim, metric=_COLUMNS[claim.metric], text=claim.text.replace("identity", "debiased concept preservation")
    )
    for claim in PAPER
    if claim.metric in _COLUMNS
)
"""The paper's comparisons, where identity is the judge's concept preservation with copying penalised."""


@dataclass(frozen=True)
class Quoted:
    """A row of the paper's main table, judged by GPT-4o; this project did not measure it."""

    method: str
    concept_preservation: float
    prompt_following: float
    product: float

    @property
    def figures(self) -> list[str]:
        """As they were published."""
        return [f"{x:.3f}" for x in (self.concept_preservation, self.prompt_following, self.product)]


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


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method before averaging.

    Attributes:
        measured: what encoders and clocks say, one value a collection.
        scores: the judge's; empty where nobody judged.
    """

    measured: Scores
    scores: Sequence[Score] = ()

    @property
    def name(self) -> str:
        """The method's."""
        return self.measured.name


HEAD = ("method", "concept preservation", "prompt following", "product", "debiased preservation", "dropped")


def judged(rows: Sequence[Row]) -> list[list[str]]:
    """The judge's table by cells under `HEAD`, then the published rows; nothing where nobody judged."""
    found = [[row.name, *_cells(row.scores)] for row in rows if row.scores]
    quoted = [[f"{row.method} (quoted)", *row.figures, "", ""] for row in QUOTED]
    return [*found, *quoted] if found else []


def findings(rows: Sequence[Row], collections: Sequence[str]) -> tuple[list[Finding], int]:
    """What became of the claims, over the collections of which every method has usable scores in every aspect.

    Args:
        rows: the methods.
        collections: their ids, in the order of the measured values.

    Returns:
        The findings and how many collections they rest on.
    """
    shares = [{aspect: _by_collection(row.scores, aspect) for aspect in ASPECTS} if row.scores else {} for row in rows]
    usable = [
        number
        for number, collection in enumerate(collections)
        if all(collection in of_aspect for of_row in shares for of_aspect in of_row.values())
    ]
    if not usable:
        return [], 0
    compared = []
    for row, of_row in zip(rows, shares, strict=True):
        columns = {metric: [values[n] for n in usable] for metric, values in row.measured.values.items()}
        columns |= {aspect: [found[collections[n]] for n in usable] for aspect, found in of_row.items()}
        compared.append(Scores(name=row.name, runs=[columns]))
    return examine(compared, CLAIMS), len(usable)


def as_dict(rows: Sequence[Row], found: Sequence[Finding], judge: str | None) -> dict[str, Any]:
    """The table with every summary of every method, its commit and its judge."""
    whole = tables.as_dict([row.measured for row in rows], found, "dreambench")
    lines = [line for row in rows for line in _judged_lines(row)] + whole["rows"]
    return whole | {"rows": lines, "judge": judge, "quoted": [dataclasses.asdict(row) for row in QUOTED]}


def as_csv(lines: Sequence[Mapping[str, object]]) -> str:
    """One line a number: the rows of `as_dict`."""
    out = io.StringIO()
    fields: list[str] = ["method", "metric", "mean", "low", "high", "n"]
    writer = csv.DictWriter(out, fields, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


def as_markdown(rows: Sequence[Row], found: Sequence[Finding] = ()) -> str:
    """The judge's table with the published one, then what else was measured, then the claims."""
    cells = judged(rows)
    parts = [
        tables.markdown(HEAD, cells) if cells else "",
        tables.as_markdown([row.measured for row in rows]),
        tables.claims_as_markdown(found),
    ]
    return "\n".join(filter(None, parts))


def quoted_as_markdown() -> str:
    """The published rows alone."""
    head = ["method (quoted)", "concept preservation", "prompt following", "product"]
    return tables.markdown(head, [[row.method, *row.figures] for row in QUOTED])


def _cells(scores: Sequence[Score]) -> list[str]:
    summaries = (summarise(scores, aspect) for aspect in ASPECTS)
    preservation, debiased, following = (None if summary is None else summary.mean for summary in summaries)
    estimates = (preservation, following, product(scores), debiased)
    dropped = sum(score.score is None for score in scores)
    return [*("" if found is None else str(found) for found in estimates), f"{dropped} of {len(scores)}"]


def _judged_lines(row: Row) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    seeds = sorted({score.repeat for score in row.scores})
    for aspect in ASPECTS:
        summary = summarise(row.scores, aspect)
        if summary is not None:
            kinds = {kind: round(mean, 4) for kind, mean in summary.by_kind.items()}
            lines.append({
                "method": row.name, "metric": aspect, **summary.mean.as_dict(), "n": summary.judged,
                "seeds": seeds, "dropped": summary.dropped,
                "deviation": round(summary.deviation, 4), "by_kind": kinds,
            })  # fmt: skip
    both = product(row.scores)
    if both is not None:
        usable = sum(
            s.score is not None for s in row.scores if s.aspect in ("concept_preservation", "prompt_following")
        )
        lines.append({"method": row.name, "metric": "product", **both.as_dict(), "n": usable, "seeds": seeds})
    return lines


def _by_collection(scores: Sequence[Score], aspect: str) -> dict[str, float]:
    """Mean share of the highest score, of collections with a usable reply."""
    found: dict[str, list[float]] = {}
    for score in scores:
        if score.aspect == aspect and score.score is not None:
            found.setdefault(score.collection, []).append(score.share)
    return {collection: float(np.mean(values)) for collection, values in found.items()}
