"""One self-contained page that shows a whole run: what was kept and why, how training went, what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from PIL import Image

from dsd.evaluate import plots
from dsd.evaluate.agreement import Agreement
from dsd.evaluate.claims import Finding
from dsd.evaluate.metrics.registry import metric_of
from dsd.evaluate.scores import Scores
from dsd.evaluate.tables import columns
from dsd.images import data_url
from dsd.log import duration


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
    metrics = columns(report.scores)
    identity = {row.name: row.estimate("identity") for row in report.scores if "identity" in metrics}
    page = environment().get_template("report.html.jinja")
    return page.render(report=report, metrics=metrics, identity=identity) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML; the first cell of each row is its heading."""
    return environment().get_template("table.html.jinja").render(head=head, rows=rows)


@cache
def environment(package: str = "dsd.evaluate") -> Environment:
    """What the templates are read with: all that they are given is escaped, but for charts and sections' bodies.

    Args:
        package: whose templates they are; those of this one can be included and imported.
    """
    packages = dict.fromkeys((package, "dsd.evaluate"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in packages]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": data_url, "duration": duration, "kind_of": _kind, "metric_of": metric_of}
    environment.globals["plots"] = plots
    return environment


def _kind(stage: str) -> str:
    """The class of a stage's bar in the funnel."""
    return "kept" if "kept" in stage else "lost" if any(word in stage for word in ("reject", "fail", "refus")) else ""
