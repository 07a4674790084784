"""One self-contained page that shows a whole run: what was kept and why, how training went, what came out."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from dsd.evaluate import plots
from dsd.evaluate.agreement import Agreement
from dsd.evaluate.claims import Finding
from dsd.evaluate.measure import Scores
from dsd.evaluate.tables import columns, title
from dsd.images import encode_png
from dsd.log import duration

_MEANING = {
    "identity": "0 is a stranger of the same description, 1 the true individual",
    "prompt_following": "share of pictures whose own prompt fits best among distractors",
    "diversity": "one minus likeness of pictures under one prompt",
    "vendi": "effective number of different pictures among those under one prompt",
    "dino_i": "mean cosine of the picture's features with the reference's",
    "dinov2_i": "the same by DINOv2",
    "clip_i": "the same by a CLIP",
    "clip_t": "mean cosine of that CLIP's features of picture and prompt",
    "copy": "0 as like the reference as the truth is, 1 the reference itself",
    "seconds_per_image": "wall clock of drawing, batched",
    "prepare_seconds": "wall clock of fitting the method to a subject before its first picture; 0 is zero-shot",
    "peak_mib": "most memory of the process while it fitted and drew, with all that was loaded",
}
_DIGITS = {"seconds_per_image": 3, "prepare_seconds": 3, "diversity": 3, "peak_mib": 0}


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
    page = _environment().get_template("report.html.jinja")
    return page.render(report=report, metrics=metrics, identity=identity) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as HTML; the first cell of each row is its heading."""
    return _environment().get_template("table.html.jinja").render(head=head, rows=rows)


def data_url(image: Image.Image) -> str:
    """A picture inside the page."""
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


@cache
def _environment() -> Environment:
    """What the templates are read with: all that they are given is escaped, but for charts and sections' bodies."""
    environment = Environment(
        loader=PackageLoader("dsd.evaluate"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": data_url, "duration": duration, "kind_of": _kind, "title_of": title}
    environment.globals |= {"plots": plots, "meaning_of": _MEANING, "digits_of": _DIGITS}
    return environment


def _kind(stage: str) -> str:
    """The class of a stage's bar in the funnel."""
    return "kept" if "kept" in stage else "lost" if any(word in stage for word in ("reject", "fail", "refus")) else ""
