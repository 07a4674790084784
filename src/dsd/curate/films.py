"""Kept pairs to films: examples of several references or targets, whose panels are all kept with one another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

from dsd.curate.panels import Described
from dsd.data.records import Pair, PanelFilm, content_id


def films(
    sheets: Sequence[Sequence[Described]], pairs: Sequence[Pair], references: int, targets: int
) -> Iterator[PanelFilm]:
    """Every choice of references and targets among panels of one sheet that are pairwise kept, in order.

    One reference and one target give the pairs once more: each kept one in both orders.

    Args:
        sheets: the panels of each.
        pairs: what was kept of them.
        references: panels that are given in a film.
        targets: panels to draw.
    """
    kept = {frozenset((pair.reference_panel, pair.target_panel)): pair for pair in reversed(pairs)}
    for panels in sheets:
        for together in combinations([one.panel for one in panels], references + targets):
            found = [kept.get(frozenset((one.id, other.id))) for one, other in combinations(together, 2)]
            first = found[0]
            if first is None or None in found:
                continue
            for given in combinations(range(len(together)), references):
                sides = [together[n] for n in given], [p for n, p in enumerate(together) if n not in given]
                ids = [tuple(panel.id for panel in side) for side in sides]
                captions = [tuple(panel.description.caption for panel in side) for side in sides]
                images = [tuple(panel.image for panel in side) for side in sides]
                yield PanelFilm(
                    id=content_id("film", *ids),
                    grid=first.grid,
                    reference_panels=ids[0],
                    target_panels=ids[1],
                    references=images[0],
                    targets=images[1],
                    reference_captions=captions[0],
                    target_captions=captions[1],
                    subject=first.subject,
                    judge=first.judge,
                )
