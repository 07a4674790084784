"""A page that shows a dataset: what became of the captions, pairs with the judge's words, and what is different."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from PIL import Image

from dsd.audit.folder import Folder, open_folder
from dsd.curate.funnel import Funnel
from dsd.curate.pairs import NEAR_COPY
from dsd.data.records import Pair, Reject
from dsd.data.rows import Kind, to_pair, to_reject
from dsd.data.store import read_columns, read_row
from dsd.errors import UserError
from dsd.evaluate.report import PairView, Report, Section, render, table
from dsd.places import Place, Where

Record = TypeVar("Record")

_SIDE = 320
"""Pixels of a panel's longer side in the page."""
_SUBJECTS = 15
_SETTINGS = (
    "task", "captions", "chat", "writer_templates", "judge", "templates", "chain_of_thought", "votes", "min_score",
    "teacher", "steps", "true_guidance", "guidance", "panel_size", "near_copy_threshold", "seed",
)  # fmt: skip


def show_dataset(folder: Where, out: Where, *, pairs: int, seed: int) -> None:
    """Writes the page of a dataset, finished or not.

    Args:
        folder: of the dataset.
        out: the page, in one file that needs no network.
        pairs: how many kept pairs are shown, and how many rejected ones.
        seed: which ones.

    Raises:
        UserError: no dataset, a damaged one, or a page that cannot be written.
    """
    if pairs < 0:
        raise UserError(f"--pairs is {pairs}, but must be at least 0")
    page_at = Place.of(out)
    if page_at.local is not None and page_at.local.is_dir():
        raise UserError(f'"{out}" is a folder; give the name of a page, such as "{page_at / "page.html"}"')
    dataset = open_folder(folder)
    funnel = dataset.funnel or Funnel()
    page = Report(
        title=f"Dataset {dataset.path.name}",
        introduction=_introduction(dataset, funnel),
        funnel=funnel.counts(),
        pairs=[*_views(dataset, "pairs", to_pair, pairs, seed), *_views(dataset, "rejects", to_reject, pairs, seed)],
        sections=[_reasons(funnel), _diversity(dataset, funnel), _cost(dataset, funnel)],
        settings=_settings(dataset.recipe),
    )
    page_at.write_atomic(render(page))


def _introduction(dataset: Folder, funnel: Funnel) -> str:
    state = "Finished" if dataset.finished else "Not finished yet: what is judged so far"
    trouble = f" {len(dataset.trouble)} files cannot be read." if dataset.trouble else ""
    share = f", {funnel.kept / funnel.candidates:.0%} of the candidates" if funnel.candidates else ""
    return f"{state}: {funnel.pairs:,} pairs of {funnel.captions:,} captions{share}.{trouble}"


def _views(
    dataset: Folder, kind: Kind, read: Callable[[dict[str, Any]], Pair | Reject], count: int, seed: int
) -> list[PairView]:
    """Some rows of a kind, drawn by the seed, a pair in one of its two orders."""
    places = [(shard.path, row) for shard in dataset.of(kind) for row in range(shard.rows)]
    random.Random(seed).shuffle(places)
    views: dict[frozenset[str], PairView] = {}
    for path, row in places:
        if len(views) == count:
            break
        record = read_row(dataset.path / path, row, read)
        pair = record.pair if isinstance(record, Reject) else record
        panels = frozenset((pair.reference_panel, pair.target_panel))
        views.setdefault(panels, _view(pair, record if isinstance(record, Reject) else None))
    return list(views.values())


def _view(pair: Pair, reject: Reject | None) -> PairView:
    votes = pair.votes
    words = {
        "subject": pair.subject,
        "first": pair.first_details,
        "second": pair.second_details,
        "comparison": pair.comparison,
        "caption": pair.target_caption,
        "score": "" if pair.score is None else f"{pair.score:.3f}",
        "votes": "" if votes is None else f"{votes.same} same, {votes.other} other, {votes.failed} failed",
        "unusable reply": "" if reject is None else reject.words[:400],
    }
    reason = "" if reject is None else reject.reason
    return PairView(
        first=_small(pair.reference), second=_small(pair.target), kept=reject is None, reason=reason, words=words
    )


def _small(picture: Image.Image) -> Image.Image:
    if max(picture.size) <= _SIDE:
        return picture
    small = picture.copy()
    small.thumbnail((_SIDE, _SIDE))
    return small


def _reasons(funnel: Funnel) -> Section:
    stages = {
        "caption row": funnel.captions_skipped,
        "grid prompt": funnel.prompts_failed,
        "sheet": funnel.sheets_refused,
        "candidate, rejected": funnel.rejected,
        "candidate, failed": funnel.failed,
    }
    rows = [[stage, reason, f"{count:,}"] for stage, counts in stages.items() for reason, count in counts.items()]
    words = "Everything that was left out is counted by its reason." if rows else "Nothing was left out."
    return Section(title="What was left out", words=words, body=table(["of", "reason", "how many"], rows))


def _diversity(dataset: Folder, funnel: Funnel) -> Section:
    kept = {row["grid"] for shard in dataset.of("pairs") for row in read_columns(dataset.path / shard.path, ["grid"])}
    written, surviving = Counter[str](), Counter[str]()
    for shard in dataset.of("grids"):
        for row in read_columns(dataset.path / shard.path, ["id", "subject"]):
            if row["subject"] is not None:
                written[row["subject"]] += 1
                surviving[row["subject"]] += row["id"] in kept
    rows = [[subject, f"{count:,}", f"{surviving[subject]:,}"] for subject, count in written.most_common(_SUBJECTS)]
    diversity: Mapping[str, int] = funnel.diversity or {}
    counts = ", ".join(f"{count:,} {what}" for what, count in diversity.items())
    most = f" The {len(rows)} most frequent of {len(written):,} subjects:" if rows else ""
    return Section(
        title="Diversity",
        words=f"{counts[:1].upper()}{counts[1:]}.{most}" if counts else most.strip(),
        body=table(["subject", "grid prompts", "with a pair"], rows),
    )


def _cost(dataset: Folder, funnel: Funnel) -> Section:
    votes = int(dataset.recipe.get("votes", 1))
    asked = funnel.kept + sum(funnel.rejected.values()) + sum(funnel.failed.values())
    unasked = sum(count for reason, count in funnel.rejected.items() if reason == NEAR_COPY)
    rows = [
        ["grid prompts asked for", f"{funnel.captions:,}"],
        ["sheets drawn", f"{funnel.grid_prompts:,}"],
        ["candidates judged", f"{asked - unasked:,} (in {votes} votes each)" if votes > 1 else f"{asked - unasked:,}"],
        *([f"bytes of {kind}", _bytes(dataset, kind)] for kind in _kinds(dataset)),
    ]
    words = "What it took, retries aside. How long it took is not recorded in a dataset."
    return Section(title="Cost", words=words, body=table(["what", "how much"], rows))


def _kinds(dataset: Folder) -> Sequence[Kind]:
    return list(dict.fromkeys(shard.kind for shard in dataset.shards))


def _bytes(dataset: Folder, kind: Kind) -> str:
    size = sum((dataset.path / shard.path).size() for shard in dataset.of(kind))
    rows = dataset.rows(kind)
    return f"{size / (1 << 20):,.1f} MiB, {size // max(rows, 1):,} bytes a row of {rows:,}"


def _settings(recipe: Mapping[str, Any]) -> dict[str, str]:
    given = {name: recipe[name] for name in _SETTINGS if recipe.get(name) not in (None, "")}
    revisions = {f"revision of {name}": value for name, value in dict(recipe.get("revisions") or {}).items()}
    return {name: str(value) for name, value in (given | revisions).items()}
