"""What the judge met: every candidate with its identity by tiny-dino, which no model of the loop has ever seen."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from dsd.curate.pairs import DIFFERENT
from dsd.data.pairs import PairRows
from dsd.data.records import Pair
from dsd.evaluate.encoders import ImageEncoder
from dsd.world.teacher_quality import CONSISTENT, pair_scale

_COMPARED_AT_ONCE = 512


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two panels of a sheet that the judge kept, or found different.

    Attributes:
        ids: of the pair in its one order or in both.
        grid: id of the sheet.
        kept: by the judge.
        identity: of the panels, from a stranger of the same caption (0) to the same individual (1).
    """

    ids: tuple[str, ...]
    grid: str
    kept: bool
    identity: float

    @property
    def same(self) -> bool:
        """Whether both panels show the same one."""
        return self.identity >= CONSISTENT


def candidates(dataset: Path, cache: Path, encoder: ImageEncoder) -> list[Candidate]:
    """Every candidate of a curated dataset, once.

    Near-copies are left out: they are rejected for being too much the same picture, not for another identity.

    Args:
        dataset: its folder.
        cache: as `PairRows` takes it.
        encoder: of identity.
    """
    rows, kept = PairRows(dataset, cache, refused=DIFFERENT), set(PairRows(dataset, cache).ids)
    scale, met = pair_scale(encoder), dict[frozenset[str], Candidate]()
    for start in range(0, len(rows), _COMPARED_AT_ONCE):
        found = dict[frozenset[str], list[Pair]]()
        for pair in rows[start : start + _COMPARED_AT_ONCE]:
            found.setdefault(frozenset((pair.reference_panel, pair.target_panel)), []).append(pair)
        pairs = [orders[0] for orders in found.values()]
        first, second = (encoder.pooled([getattr(p, name) for p in pairs]) for name in ("reference", "target"))
        identities = scale.of_cosines((first * second).sum(1)).tolist()
        for (panels, orders), identity in zip(found.items(), identities, strict=True):
            known, ids = met.get(panels), tuple(pair.id for pair in orders)
            if known is not None:  # the other order came in the batch before
                met[panels] = dataclasses.replace(known, ids=(*known.ids, *ids))
            else:
                met[panels] = Candidate(ids=ids, grid=orders[0].grid, kept=ids[0] in kept, identity=identity)
    return list(met.values())
