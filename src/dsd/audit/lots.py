"""Some kept and some rejected candidates of a dataset, drawn by lot, found without reading every picture."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dsd.audit.folder import Folder
from dsd.audit.rows import rows_of
from dsd.data.records import Pair, Reject
from dsd.data.rows import to_pair, to_reject
from dsd.data.store import read_row
from dsd.places import Place


@dataclass(frozen=True)
class Lot:
    """Where a candidate is.

    Attributes:
        path: of the file.
        row: in it, from 0.
        grid: its sheet.
        reason: why it was not kept; empty for pairs.
    """

    path: Place
    row: int
    grid: str
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Lots:
    """What can be drawn.

    Attributes:
        kept: each candidate once, in the order in which it comes first.
        rejected: each of them.
    """

    kept: Sequence[Lot]
    rejected: Sequence[Lot]

    @classmethod
    def of(cls, folder: Folder) -> Lots:
        """Those of a dataset.

        Raises:
            UserError: a file is missing or damaged.
        """
        kept: dict[frozenset[str], Lot] = {}
        for shard in folder.of("pairs"):
            path = folder.path / shard.path
            for at, row in enumerate(rows_of(path, ("reference_panel", "target_panel", "grid"))):
                kept.setdefault(frozenset((row["reference_panel"], row["target_panel"])), Lot(path, at, row["grid"]))
        rejected = [
            Lot(folder.path / shard.path, at, row["grid"], row["reason"])
            for shard in folder.of("rejects")
            for at, row in enumerate(rows_of(folder.path / shard.path, ("grid", "reason")))
        ]
        return cls(kept=list(kept.values()), rejected=rejected)

    def draw(self, most: int, seed: int) -> tuple[list[Pair], list[Reject]]:
        """Draws some of each: of different sheets as far as there are enough, and of the rejects one of each reason.

        Args:
            most: of each.
            seed: decides which.

        Raises:
            UserError: a file is missing or damaged.
        """
        chance = random.Random(seed)
        kept = _of_many_sheets(_shuffled(self.kept, chance))[:most]
        rejected = _of_many_sheets(_shuffled(self.rejected, chance))
        often = Counter(lot.reason for lot in self.rejected)
        firsts = {lot.reason: lot for lot in reversed(rejected)}
        chosen = {firsts[reason]: None for reason, _ in often.most_common(most)}
        for lot in rejected:
            if len(chosen) < most:
                chosen.setdefault(lot)
        return (
            [read_row(lot.path, lot.row, to_pair) for lot in kept],
            [read_row(lot.path, lot.row, to_reject) for lot in sorted(chosen, key=lambda lot: -often[lot.reason])],
        )


def _shuffled(lots: Sequence[Lot], chance: random.Random) -> list[Lot]:
    return chance.sample(lots, len(lots))


def _of_many_sheets(lots: Iterable[Lot]) -> list[Lot]:
    """The first one of each sheet, in order, then the second ones, and so on."""
    seen: Counter[str] = Counter()
    rounds = []
    for lot in lots:
        rounds.append((seen[lot.grid], lot))
        seen[lot.grid] += 1
    return [lot for _, lot in sorted(rounds, key=lambda item: item[0])]
