"""What the judge met: every candidate with its identity by tiny-dino, which no model of the loop has ever seen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dsd.data.records import turned
from dsd.encoders import ImageEncoder
from dsd_world.demo_data import judged_once
from dsd_world.teacher_quality import CONSISTENT, pair_scale


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Two panels of a sheet that the judge kept, or found different.

    Attributes:
        ids: of the pair in its two orders.
        grid: id of the sheet.
        kept: by the judge.
        identity: of the panels, from a stranger of the same caption (0) to the same individual (1).
    """

    ids: tuple[str, str]
    grid: str
    kept: bool
    identity: float

    @property
    def same(self) -> bool:
        """Whether both panels show the same one."""
        return self.identity >= CONSISTENT


def candidates(dataset: Path, encoder: ImageEncoder) -> list[Candidate]:
    """Every candidate of a curated dataset that was judged, once.

    Args:
        dataset: its folder.
        encoder: of identity.
    """
    met = list(judged_once(dataset))
    first, second = (encoder.pooled([getattr(pair, name) for pair, _ in met]) for name in ("reference", "target"))
    identities = pair_scale(encoder).of_cosines((first * second).sum(1)).tolist()
    return [
        Candidate(ids=(pair.id, turned(pair).id), grid=pair.grid, kept=kept, identity=identity)
        for (pair, kept), identity in zip(met, identities, strict=True)
    ]
