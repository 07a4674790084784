"""One self-contained page that shows a whole run: what was kept and why, how training went, what came out."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from dsd.evaluate import plots
from dsd.evaluate.agreement import Agreement
from dsd.evaluate.claims import Finding
from dsd.evaluate.metrics.registry import metric_of
from dsd.evaluate.scores import Scores
from dsd.evaluate.tables import columns, title
from dsd.images import encode_png
from dsd.log import duration

_CSS = Path(__file__).parent / "templates" / "report.css"


@dataclass(frozen=True, kw_only=True)
class PairView:
    """A judged pair to show.

    Attributes:
        first, second: the panels.
        kept: whether it was kept.
        reason: why it was rejected; empty for kept pairs.
        words: what the vision-language model said, by title.
    """

    first: Image.Image
    second: Image.Image
    kept: bool
    reason: str = ""
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SheetRow:
    """A line of the comparison: a prompt with its pictures by column title."""

    prompt: str
    pictures: Mapping[str, Image.Image]


@dataclass(frozen=True, kw_only=True)
class Section:
    """A further part of the page.

    Attributes:
        title: the heading.
        words: a sentence below it.
        body: HTML.
    """

    title: str
    words: str
    body: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything that the page shows; empty parts are left out.

    Attributes:
        title: the heading.
        introduction: a sentence below it.
        funnel: counts by stage, in order.
        pairs: examples.
        training: (step, loss).
        held_out: (step, held-out loss).
        sheet: the comparison.
        scores: the table's rows.
        findings: what became of claims.
        sections: further parts.
        agreement: of kept and rejected pairs.
        seconds: by stage.
        settings: whatever is needed to repeat the run, by name.
    """

    title: str
    introduction: str = ""
    funnel: Mapping[str, int] = field(default_factory=dict)
    pairs: Sequence[PairView] = ()
    training: Sequence[tuple[int, float]] = ()
    held_out: Sequence[tuple[int, float]] = ()
    sheet: Sequence[SheetRow] = ()
    scores: Sequence[Scores] = ()
    findings: Sequence[Finding] = ()
    sections: Sequence[Section] = ()
    agreement: Agreement | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)


def render(report: Report) -> str:
    """The page as HTML: no scripts, no links, pictures as data URLs."""
    sections = [
        _section("What came out", "Individuals that no model has seen, each known from one picture.", _sheet(report)),
        _section("The table", "Means over held-out individuals with 95 % bootstrap intervals.", _table(report)),
        _section(
            "Claims",
            "Paired over subjects, p corrected for their number; a claim holds when its whole interval is on its side.",
            _claims(report.findings),
        ),
        *(_section(part.title, part.words, part.body) for part in report.sections),
        _section("Funnel", "From captions to training pairs.", _funnel(report.funnel)),
        _section(
            "Kept and rejected",
            "Pairs of panels that the teacher drew as one individual, and what the vision-language model said.",
            _pairs(report.pairs),
        ),
        _section(
            "Does the filter work",
            "Identity agreement of both panels by an encoder that curation never used.",
            _agreement(report.agreement),
        ),
        _section(
            "Training",
            "Loss of the student by step; dots are held-out.",
            plots.curve(report.training, report.held_out) if report.training else "",
        ),
        _section("Time", "", _seconds(report.seconds)),
        _section("Settings", "", _settings(report.settings)),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(report.title)}</title><style>{_CSS.read_text()}</style></head><body><main>"
        f"<h1>{html.escape(report.title)}</h1><p>{html.escape(report.introduction)}</p>"
        + "".join(sections)
        + "</main></body></html>\n"
    )


def data_url(image: Image.Image) -> str:
    """A picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def _section(title: str, words: str, body: str) -> str:
    if not body:
        return ""
    paragraph = f"<p>{html.escape(words)}</p>" if words else ""
    return f'<section><h2>{html.escape(title)}</h2>{paragraph}<div class="scroll">{body}</div></section>'


def _image(image: Image.Image, alt: str) -> str:
    return f'<img src="{data_url(image)}" width="{image.width}" height="{image.height}" alt="{html.escape(alt)}">'


def _sheet(report: Report) -> str:
    if not report.sheet:
        return ""
    columns = list(report.sheet[0].pictures)
    cells = ['<div class="head">prompt</div>', *(f'<div class="head">{html.escape(c)}</div>' for c in columns)]
    for row in report.sheet:
        cells.append(f'<div class="prompt">{html.escape(row.prompt)}</div>')
        cells += [_image(row.pictures[c], f"{c}: {row.prompt}") for c in columns]
    style = f"grid-template-columns: minmax(108px, 1.4fr) repeat({len(columns)}, minmax(83px, 1fr))"
    return f'<div class="sheet" style="{style}">{"".join(cells)}</div>'


def _table(report: Report) -> str:
    if not report.scores:
        return ""
    metrics = columns(report.scores)
    head = "".join(f"<th>{title(m)}</th>" for m in metrics)
    rows = ""
    for row in report.scores:
        cells = ""
        for metric in metrics:
            e, digits = row.estimate(metric), metric_of(metric).digits
            cells += f"<td>{e.mean:.{digits}f}<small>{e.low:.{digits}f} to {e.high:.{digits}f}</small></td>"
        rows += f"<tr><th>{html.escape(row.name)}</th>{cells}</tr>"
    legend = "".join(f"<p><b>{title(m)}</b>: {metric_of(m).meaning}.</p>" for m in metrics if metric_of(m).meaning)
    chart = ""
    if "identity" in metrics:
        chart = plots.intervals({row.name: row.estimate("identity") for row in report.scores}, bounds=(0.0, 1.0))
        chart = f"<p>Identity, between a stranger (0) and the true individual (1):</p>{chart}"
    return f"<table><thead><tr><th>method</th>{head}</tr></thead><tbody>{rows}</tbody></table>{chart}{legend}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML; the first cell of each row is its heading."""
    cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join(
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _claims(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    head = "<tr><th>claim</th><th>difference</th><th>corrected p</th><th>win rate</th><th>holds</th></tr>"
    rows = "".join(
        f"<tr><th>{html.escape(f.claim)}</th><td>{f.difference}</td><td>{f.p:.4f}</td><td>{f.win_rate:.2f}</td>"
        f'<td><b class="{"kept" if f.holds else "rejected"}">{"yes" if f.holds else "no"}</b></td></tr>'
        for f in findings
    )
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _funnel(funnel: Mapping[str, int]) -> str:
    top = max(funnel.values(), default=0)
    rows = ""
    for name, count in funnel.items():
        kind = "kept" if "kept" in name else "lost" if ("reject" in name or "fail" in name or "refus" in name) else ""
        rows += (
            f'<span>{html.escape(name)}</span><span class="bar {kind}" style="width: {100 * count / max(top, 1):.1f}%">'
            f"</span><b>{count:,}</b>"
        )
    return f'<div class="funnel">{rows}</div>' if rows else ""


def _pairs(pairs: Sequence[PairView]) -> str:
    cards = ""
    for pair in pairs:
        word = (
            '<b class="kept">kept</b>' if pair.kept else f'<b class="rejected">rejected: {html.escape(pair.reason)}</b>'
        )
        said = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in pair.words.items() if v)
        two = _image(pair.first, "first panel") + _image(pair.second, "second panel")
        cards += f'<div class="pair"><div class="two">{two}</div>{word}<dl>{said}</dl></div>'
    return f'<div class="pairs">{cards}</div>' if cards else ""


def _agreement(agreement: Agreement | None) -> str:
    if agreement is None:
        return ""
    rows = {
        f"kept ({len(agreement.kept_values)})": agreement.kept,
        f"rejected ({len(agreement.rejected_values)})": agreement.rejected,
    }
    words = "; ".join(f"{name}: {estimate}" for name, estimate in rows.items())
    histogram = plots.two_histograms(agreement.kept_values, agreement.rejected_values)
    return f"{plots.intervals(rows)}{histogram}<p>Mean cosine, {words}.</p>"


def _seconds(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    total = sum(seconds.values())
    rows = "".join(
        f'<span>{html.escape(k)}</span><span class="bar" style="width: {100 * v / max(total, 1e-9):.1f}%"></span>'
        f"<b>{duration(v)}</b>"
        for k, v in seconds.items()
    )
    return f'<div class="funnel">{rows}<span>in all</span><span></span><b>{duration(total)}</b></div>'


def _settings(settings: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in settings.items())
    return f"<table><tbody>{rows}</tbody></table>" if rows else ""
