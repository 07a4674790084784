"""A page of a dataset as HTML: kept and rejected pairs with the judge's words, found without reading every picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

from dsd.data.comparison import points
from dsd.data.records import Pair, Reject
from dsd.data.rows import to_pair, to_reject
from dsd.data.store import DatasetReader, read_columns, read_row
from dsd.errors import UserError, cut
from dsd.images import data_url
from dsd.places import Place, Where

PER_PAGE = 6
KEPT, REJECTED = "kept", "rejected, for any reason"
_LARGE = 384  # pixels; larger panels are scaled down and sent as WebP


@dataclass(frozen=True)
class _Row:
    """Where a row is."""

    path: Place
    row: int


class Pages:
    """A dataset by reason, a few pairs at a time.

    Args:
        folder: as `dsd curate` wrote it.

    Raises:
        UserError: no finished dataset, or a damaged one.
    """

    def __init__(self, folder: Where) -> None:
        reader = DatasetReader(folder)
        self.folder = reader.folder
        self.funnel = reader.funnel()
        kept: dict[frozenset[str], _Row] = {}
        for shard in reader.manifest.of("pairs"):
            path = self.folder / shard.path
            for row, panels in enumerate(read_columns(path, ["reference_panel", "target_panel"])):
                kept.setdefault(frozenset(panels.values()), _Row(path, row))
        self._places: dict[str, list[_Row]] = {KEPT: list(kept.values()), REJECTED: []}
        reasons: dict[str, list[_Row]] = {}
        for shard in reader.manifest.of("rejects"):
            path = self.folder / shard.path
            for row, columns in enumerate(read_columns(path, ["reason"])):
                reasons.setdefault(columns["reason"], []).append(_Row(path, row))
        self._places[REJECTED] = [place for places in reasons.values() for place in places]
        self._places |= dict(sorted(reasons.items(), key=lambda item: -len(item[1])))

    def filters(self) -> dict[str, int]:
        """What can be looked at, and how many pairs each has, a pair in both orders being one: `KEPT` and `REJECTED`
        come first, then the reasons."""
        return {name: len(places) for name, places in self._places.items()}

    def count(self, which: str) -> int:
        """How many pages there are, at least 1."""
        return max(1, -(-len(self._places[which]) // PER_PAGE))

    def page(self, which: str, number: int) -> str:
        """HTML of a page.

        Args:
            which: one of `filters`.
            number: from 1; beyond the ends it is the first or the last.

        Raises:
            UserError: a file is missing or damaged.
        """
        if which not in self._places:
            raise UserError(f'nothing was kept or rejected as "{cut(which)}"; choose from the list')
        first = (min(max(1, number), self.count(which)) - 1) * PER_PAGE
        places = self._places[which][first : first + PER_PAGE]
        if not places:
            return '<p class="dsd-empty">There are none.</p>'
        read = to_pair if which == KEPT else to_reject
        cards = "".join(_card(read_row(place.path, place.row, read)) for place in places)
        return f'<div class="dsd-pairs">{cards}</div>'

    def funnel_html(self) -> str:
        """HTML of how many there were at each stage, and what became of the rest."""
        stages = [
            ("captions", "captions", ("captions_skipped",)),
            ("grid_prompts", "prompts", ("prompts_failed",)),
            ("sheets", "sheets", ("sheets_refused",)),
            ("candidates", "candidates", ("rejected", "failed")),
            ("kept", "kept", ()),
            ("pairs", "pairs to train on", ()),
        ]
        parts = []
        for name, said, beside in stages:
            lost = [_listed(self.funnel[one]) for one in beside if self.funnel.get(one)]
            aside = f"<small>left out: {escape(', '.join(lost))}</small>" if lost else ""
            parts.append(f"<li><b>{self.funnel.get(name, 0):,}</b> {said}{aside}</li>")
        return f'<ol class="dsd-funnel">{"".join(parts)}</ol>'


def _card(record: Pair | Reject) -> str:
    pair = record.pair if isinstance(record, Reject) else record
    verdict = escape(record.reason) if isinstance(record, Reject) else "kept"
    kind = "lost" if isinstance(record, Reject) else "kept"
    figures = "".join(
        f'<figure><img src="{data_url(picture, _LARGE)}" alt="{name}"><figcaption>{escape(caption)}'
        f"<small>{escape(details)}</small></figcaption></figure>"
        for name, picture, caption, details in (
            ("reference", pair.reference, pair.reference_caption, pair.first_details),
            ("target", pair.target, pair.target_caption, pair.second_details),
        )
    )
    compared = "".join(
        f'<li class="{outcome}"><span>{escape(said)}</span>{f"<b>{outcome}</b>" if outcome else ""}</li>'
        for said, outcome in points(pair.comparison)
    )
    words = record.words if isinstance(record, Reject) else ""
    return (
        f'<article class="dsd-pair {kind}"><header><b>{verdict}</b> {escape(pair.subject)}</header>'
        f'<div class="dsd-two">{figures}</div>'
        + (f"<ul>{compared}</ul>" if compared else '<p class="dsd-empty">The judge compared nothing.</p>')
        + (f"<pre>{escape(words)}</pre>" if words else "")
        + f"<footer>judged by {escape(pair.judge.name)}</footer></article>"
    )


def _listed(counts: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
