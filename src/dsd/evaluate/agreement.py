"""Does curation keep the right pairs: identity agreement of kept and of rejected pairs, by an encoder it never used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from dsd.encoders import ImageEncoder
from dsd.evaluate.bootstrap import Estimate, bootstrap


@dataclass(frozen=True, kw_only=True)
class JudgedPair:
    """Two panels of a sheet and what became of them.

    Attributes:
        first, second: the panels.
        grid: the sheet that they come from.
        kept: whether curation kept them.
    """

    first: Image.Image
    second: Image.Image
    grid: str
    kept: bool


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Cosines of both panels' features.

    Attributes:
        kept, rejected: mean cosines, with intervals over sheets (pairs of one sheet are not independent).
        kept_values, rejected_values: the cosines themselves.
    """

    kept: Estimate
    rejected: Estimate
    kept_values: list[float]
    rejected_values: list[float]

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Agreement:
        """The inverse of `dataclasses.asdict`."""
        return cls(**{**values, "kept": Estimate(**values["kept"]), "rejected": Estimate(**values["rejected"])})


def agreement(pairs: Sequence[JudgedPair], encoder: ImageEncoder) -> Agreement | None:
    """Measures kept and rejected pairs; None where one of both is empty."""
    kept, rejected = [p for p in pairs if p.kept], [p for p in pairs if not p.kept]
    if not kept or not rejected:
        return None
    first, second = encoder.pooled([p.first for p in pairs]), encoder.pooled([p.second for p in pairs])
    cosines = (first * second).sum(1).tolist()
    values = {flag: [c for c, p in zip(cosines, pairs, strict=True) if p.kept is flag] for flag in (True, False)}
    return Agreement(
        kept=bootstrap(values[True], groups=[p.grid for p in kept]),
        rejected=bootstrap(values[False], groups=[p.grid for p in rejected]),
        kept_values=values[True],
        rejected_values=values[False],
    )
