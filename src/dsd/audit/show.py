"""A page of a dataset: what became of everything, pairs with the judge's words, diversity, what it was made with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from PIL import Image

from dsd import runs
from dsd.audit.figures import Figures
from dsd.audit.folder import UNITS, Folder, numbers, open_folder
from dsd.audit.funnel_bars import Group, groups
from dsd.audit.lots import Lots
from dsd.audit.spent import spent
from dsd.curate.diversity import diversity_of
from dsd.data.comparison import points
from dsd.data.records import Pair, Reject
from dsd.data.rows import Kind
from dsd.data.store import MANIFEST
from dsd.errors import UserError, cut
from dsd.evaluate import plots
from dsd.evaluate.report import environment, table
from dsd.log import duration
from dsd.places import Place, Where

_PAGES = (".html", ".htm")
_MOST_WORDS = 600


@dataclass(frozen=True, kw_only=True)
class Side:
    """One picture of a candidate, with what was said of it."""

    name: str
    picture: Image.Image
    caption: str
    details: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A candidate to look at.

    Attributes:
        reason: why it was not kept; empty where it was.
        failed: whether it was not kept for want of an answer.
        sides: reference and target.
        points: of the comparison: what was compared, and ``same``, ``other`` or nothing.
        numbers: score and votes, in words.
        words: a reply that could not be used.
    """

    reason: str
    failed: bool
    sides: Sequence[Side]
    points: Sequence[tuple[str, str]]
    numbers: str
    words: str


@dataclass(frozen=True, kw_only=True)
class Page:
    """All that the page shows; empty parts are left out.

    Attributes:
        title, introduction: what it is.
        warning: that it is not finished; empty where it is.
        groups: of the funnel.
        kept, rejected: candidates.
        kept_of, rejected_of: how many there are.
        seed: that decided which.
        figures: of the rows.
        diversity: see `dsd.curate.diversity.diversity`.
        models, settings, made_from, files: rows of tables.
        time: sentences.
        spent: rows of a table.
    """

    title: str
    introduction: str
    warning: str
    groups: Sequence[Group]
    kept: Sequence[Card]
    rejected: Sequence[Card]
    kept_of: int
    rejected_of: int
    seed: int
    figures: Figures
    diversity: Mapping[str, int]
    models: Sequence[Sequence[str]]
    settings: Sequence[Sequence[str]]
    made_from: Sequence[Sequence[str]]
    files: Sequence[Sequence[str]]
    time: str
    spent: Sequence[Sequence[str]]

    @property
    def titles(self) -> list[str]:
        """Of the sections that lie far below."""
        there = {
            "Kept": self.kept,
            "Not kept": self.rejected,
            "How sure the judge was": self.figures.compared or self.figures.kept_scores,
            "Diversity": self.diversity.get("grid prompts"),
            "What it was made with": True,
            "Size and time": self.files or self.time,
            "What it cost": self.spent,
        }
        return [title for title, shown in there.items() if shown]

    @property
    def repeated(self) -> bool:
        """Whether any subject comes again."""
        return any(count > 1 for count in self.figures.subjects.values())


def show_dataset(where: Where, out: Where, *, pairs: int = 12, seed: int = 0) -> Place:
    """Writes a page that shows a dataset.

    Args:
        where: `dsd curate` or `dsd data` wrote it, finished or not.
        out: the page to write: one file that needs no other, and no network.
        pairs: how many kept candidates are shown, and how many others.
        seed: which ones.

    Returns:
        The page's place.

    Raises:
        UserError: no dataset, a damaged file of it, a number out of range, or a place that cannot be written to.
    """
    if pairs < 0:
        raise UserError(f"--pairs is {pairs}, but must be at least 0")
    place = Place.of(out)
    if place.local is not None and place.local.is_dir():
        raise UserError(f'--out "{out}" is a folder; give the name of a page, such as "{place / "page.html"}"')
    if place.local is not None and place.local.exists() and place.local.suffix.lower() not in _PAGES:
        raise UserError(f'"{out}" is no page by its name and would be lost; give a name that ends in .html')
    page = page_of(open_folder(where), pairs, seed)
    html = environment("dsd.audit").get_template("show.html.jinja").render(page=page, plots=plots, table=table)
    place.write_atomic(html.encode("utf-8", "replace") + b"\n")
    return place


def page_of(folder: Folder, pairs: int, seed: int) -> Page:
    """Gathers what the page shows; see `show_dataset`."""
    funnel = folder.funnel
    if funnel is None:
        raise UserError(next(iter(folder.trouble.values())))
    lots, figures = Lots.of(folder), Figures.of(folder)
    kept, rejected = lots.draw(pairs, seed)
    share = f" ({funnel.kept / funnel.candidates:.0%})" if funnel.candidates else ""
    examples = f"{funnel.pairs:,} pairs" if funnel.films is None else f"{funnel.films:,} films"
    return Page(
        title=folder.path.name or str(folder.path),
        introduction=f"{examples} to train on: {funnel.kept:,} of {funnel.candidates:,} candidates{share} were kept, "
        f"of {funnel.sheets:,} sheets that were drawn after {funnel.captions:,} captions.",
        warning=_unfinished(folder),
        groups=groups(funnel),
        kept=[_card(pair) for pair in kept],
        rejected=[_card(reject.pair, reject) for reject in rejected],
        kept_of=len(lots.kept),
        rejected_of=len(lots.rejected),
        seed=seed,
        figures=figures,
        diversity=funnel.diversity or _counted(folder),
        models=[
            [name, does, revision, template, f"{rows:,}"]
            for (does, name, revision, template), rows in figures.models.items()
        ],
        settings=list(_settings(folder.recipe)),
        made_from=list(_made_from(folder.recipe)),
        files=list(_files(folder)),
        time=_time(folder),
        spent=list(_spent(folder)),
    )


def _unfinished(folder: Folder) -> str:
    if folder.finished:
        return ""
    judged = len({shard.path.rpartition("/")[2] for shard in folder.shards})
    drawn = f", and {len(folder.drawn):,} more are drawn" if folder.drawn else ""
    trouble = f" {len(folder.trouble):,} of its files cannot be read." if folder.trouble else ""
    return f"It has no {MANIFEST} yet: {judged:,} units are judged{drawn}. This page shows what is judged.{trouble}"


def _card(pair: Pair, reject: Reject | None = None) -> Card:
    sides = (
        Side(name="reference", picture=pair.reference, caption=pair.reference_caption, details=pair.first_details),
        Side(name="target", picture=pair.target, caption=pair.target_caption, details=pair.second_details),
    )
    numbers = [] if pair.score is None else [f"score {pair.score:.3f}"]
    if pair.votes is not None and pair.votes.same + pair.votes.other + pair.votes.failed > 1:
        failed = f", {pair.votes.failed} of no use" if pair.votes.failed else ""
        numbers.append(f"votes: {pair.votes.same} same, {pair.votes.other} other{failed}")
    return Card(
        reason="" if reject is None else reject.reason,
        failed=reject is not None and reject.outcome == "failed",
        sides=sides,
        points=points(pair.comparison),
        numbers="; ".join(numbers),
        words="" if reject is None else cut(reject.words, _MOST_WORDS),
    )


def _counted(folder: Folder) -> dict[str, int]:
    """What is different, of a dataset whose funnel does not say it."""
    try:
        return diversity_of(folder.path, folder.shards)
    except ValueError:  # ids that are no content ids, of whoever wrote it
        return {}


def _settings(recipe: Mapping[str, Any]) -> Iterator[list[str]]:
    """The settings that say anything."""
    for name, value in recipe.items():
        if name not in ("revisions", "made_from") and value not in ("", None, [], {}):
            said = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield [name, cut(said, 300)]


def _made_from(recipe: Mapping[str, Any]) -> Iterator[list[str]]:
    """How it was made of other datasets, if it was."""
    made = recipe.get("made_from")
    if not isinstance(made, Mapping):
        return
    yield ["made by", f"dsd data {cut(str(made.get('by')), 300)}"]
    if made.get("side"):
        yield ["side", str(made["side"])]
    for one in made.get("of", ()):
        pairs = one.get("funnel", {}).get("pairs", 0)
        yield ["of", f"a dataset of {pairs:,} pairs, manifest {str(one.get('manifest'))[:12]}"]


def _files(folder: Folder) -> Iterator[list[str]]:
    """Rows and bytes by kind."""
    kinds: tuple[Kind, ...] = get_args(Kind)
    for kind in kinds:
        if shards := folder.of(kind):
            size = sum((folder.path / shard.path).size() for shard in shards)
            yield [kind, f"{folder.rows(kind):,}", f"{len(shards):,}", _size(size)]


def _spent(folder: Folder) -> Iterator[list[str]]:
    """What was asked of each model, in words."""
    for one in spent(folder):
        tokens = ["" if count is None else f"about {_rounded(count)}" for count in (one.given, one.replied)]
        operations = "" if one.operations is None else f"{one.operations:.3g}"
        yield [one.what, one.model.partition("@")[0], f"{one.calls:,}", *tokens, operations]


def _rounded(count: float) -> str:
    return f"{count / 1e6:,.3g} M" if count >= 1e6 else f"{count:,.0f}"


def _size(count: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count} bytes"


def _time(folder: Folder) -> str:
    """How long it took by the times of its files, where they lie here and there are any."""
    local = folder.path.local
    if local is None or folder.funnel is None or not (local / runs.CONFIG).is_file():
        return ""
    records = [local / UNITS / f"{number:05d}.json" for number in numbers(folder.path / UNITS, "json")]
    records = [record for record in records if record.is_file()]
    if not records:
        return ""
    begun = (local / runs.CONFIG).stat().st_mtime
    seconds = max(record.stat().st_mtime for record in records) - begun
    if seconds < 1:
        return ""
    rate = folder.funnel.candidates / seconds
    pairs = folder.funnel.pairs / seconds * 3600
    return (
        f"By the times of its files, its first unit was begun at {datetime.fromtimestamp(begun):%Y-%m-%d %H:%M} and "
        f"its last one was judged {duration(seconds)} later: {rate:.3g} candidates a second, {pairs:,.0f} pairs an "
        "hour. A pause between two starts counts as work here, and files that were copied have other times."
    )
