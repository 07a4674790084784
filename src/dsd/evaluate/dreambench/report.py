"""The table of DreamBench++ on disk, with a page that shows the pictures beside it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dsd.evaluate import plots
from dsd.evaluate.claims import Finding
from dsd.evaluate.dreambench.judge import ASPECTS, summarise
from dsd.evaluate.dreambench.samples import PROMPTS, Collection, SampleFolder
from dsd.evaluate.dreambench.table import HEAD, Row, as_csv, as_dict, as_markdown, findings, judged
from dsd.evaluate.report import Report, Section, SheetRow, render, table
from dsd.files import write_atomic
from dsd.images import load_image

_SHEET_ROWS = 18
_SHOWN_SIDE = 192


def write(
    rows: Sequence[Row],
    samples: Sequence[SampleFolder],
    collections: Sequence[Collection],
    folder: Path,
    *,
    judge: str | None,
) -> list[Finding]:
    """Writes ``table.json``, ``table.csv``, ``table.md`` and ``index.html``.

    Args:
        rows: the methods.
        samples: where the pictures of each lie.
        collections: that were drawn.
        folder: to write to.
        judge: its name and revision; None where nobody judged.

    Returns:
        What became of the claims.
    """
    found, compared = findings(rows, [collection.id for collection in collections])
    whole = as_dict(rows, found, judge)
    write_atomic(folder / "table.json", json.dumps(whole, indent=2) + "\n")
    write_atomic(folder / "table.csv", as_csv(whole["rows"]))
    write_atomic(folder / "table.md", as_markdown(rows, found))
    page = Report(
        title="DreamBench++",
        introduction=f"{len(collections)} collections x {PROMPTS} prompts; judge: {judge or 'none'}. Claims rest on "
        f"{compared} collections, those of which every method has usable scores.",
        sheet=_sheet(rows, samples, collections),
        scores=[row.measured for row in rows],
        findings=found,
        sections=_sections(rows),
    )
    write_atomic(folder / "index.html", render(page))
    return found


def _sections(rows: Sequence[Row]) -> list[Section]:
    cells = judged(rows)
    if not cells:
        return []
    charts = ""
    for aspect in ASPECTS:
        summaries = {row.name: summarise(row.scores, aspect) for row in rows}
        means = {name: summary.mean for name, summary in summaries.items() if summary is not None}
        charts += f"<p>{aspect.replace('_', ' ')}</p>{plots.intervals(means, bounds=(0.0, 1.0))}" if means else ""
    words = "Scores / 4, with 95 % bootstrap intervals over collections. Rows marked as quoted were not measured here."
    return [Section(title="The judge's scores", words=words, body=table(HEAD, cells) + charts)]


def _sheet(rows: Sequence[Row], samples: Sequence[SampleFolder], collections: Sequence[Collection]) -> list[SheetRow]:
    """A prompt of each of some collections spread over all of them, drawn by every method."""
    shown = collections[:: max(1, len(collections) // _SHEET_ROWS)][:_SHEET_ROWS]
    sheet = []
    for number, collection in enumerate(shown):
        prompt = number % PROMPTS
        pictures = {
            row.name: _small(of_row.target(collection, prompt)) for row, of_row in zip(rows, samples, strict=True)
        }
        columns = {"reference": _small(collection.reference), **pictures}
        sheet.append(SheetRow(prompt=collection.prompts[prompt], pictures=columns))
    return sheet


def _small(path: Path) -> Image.Image:
    picture = load_image(path)
    picture.thumbnail((_SHOWN_SIDE, _SHOWN_SIDE))
    return picture
