"""Row by row: ids, captions, panels and pictures, and what the rows add up to."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from typing import Any

from dsd.audit.findings import Findings, Row
from dsd.audit.rows import PICTURES, pictures_in
from dsd.audit.sums import Sums
from dsd.data.records import panel_id
from dsd.data.rows import COLUMNS, SINCE_2, Kind
from dsd.errors import UserError
from dsd.images import load_image

STUCK = 0.5
"""A caption of so many of all panels, or more, says that whoever wrote captions repeats itself."""
_FEW = 8
"""Panels too few to say so."""
_MAY_LACK: dict[Kind, set[str]] = {
    "pairs": set(),
    "rejects": set(),
    "films": set(),
    "grids": {
        "id", "image", "prompt_id", "subject", "scenes", "text", "seed",
        *(f"{who}{part}" for who in ("writer", "teacher") for part in ("", "_revision", "_template")),
    },
}  # fmt: skip


class Examined:
    """What was seen of a dataset's rows so far; sheets have to come before what was made of them.

    Args:
        findings: where to say what is the matter.
        pictures: whether pictures are decoded.
        panels: that a sheet has which was cut; None where that is not known.

    Attributes:
        sums: of the rows.
        decoded: different pictures that were decoded.
    """

    def __init__(self, findings: Findings, *, pictures: bool, panels: int | None = None) -> None:
        self.pictures = pictures
        self._of_sheet = panels
        self.sums = Sums()
        self.decoded = 0
        self._findings = findings
        self._ids: dict[str, str] = {}
        self._grids: set[str] = set()
        self._panels: set[str] = set()
        self._seen: set[bytes] = set()
        self._broken: set[bytes] = set()
        self._captions: dict[str, str] = {}

    def row(self, kind: Kind, row: dict[str, Any], where: Row, *, judged: bool = True) -> None:
        """Looks at a row; a sheet that was not judged yet has no words of its panels, and is no part of the sums."""
        if judged:
            self.sums.add(kind, row)
        for column in COLUMNS[kind]:
            if row.get(column) is None and column not in _MAY_LACK[kind] and column not in SINCE_2:
                self._findings.wrong(where, f'the column "{column}" is empty')
        self._id(kind, row, where)
        self._pictures(kind, row, where)
        if kind == "grids":
            self._sheet(row, where if judged else None)
        else:
            self._traced(kind, row, where)
        if kind == "pairs":
            self._captioned(row, where)
        elif kind == "films":
            for caption in (*(row["reference_captions"] or ()), *(row["target_captions"] or ())):
                self._worded(caption, where)

    def finish(self) -> None:
        """Says what only all rows together show."""
        panels = Counter(self._captions.values())
        repeated = {caption: count for caption, count in panels.items() if count > 1}
        if not repeated:
            return
        caption, most = max(repeated.items(), key=lambda item: item[1])
        share = f'"{caption}" is the caption of {most:,} of {len(self._captions):,} kept panels'
        if most > _FEW and most >= STUCK * len(self._captions):
            self._findings.wrong("captions", f"{share}: who wrote it repeats itself")
        else:
            several = sum(repeated.values())
            self._findings.note("captions", f"{several:,} kept panels share their caption with another; {share}")

    def _id(self, kind: Kind, row: dict[str, Any], where: Row) -> None:
        identity = row["id"]
        if identity is None:
            return
        if identity in self._ids:
            self._findings.wrong(where, f"the id is there twice, first {_of(kind, self._ids[identity])}")
        self._ids.setdefault(identity, kind)

    def _sheet(self, row: dict[str, Any], where: Row | None) -> None:
        grid, found = row["id"], len(row["panel_captions"] or ())
        if where is not None and not row["reason"] and self._of_sheet not in (None, found):
            self._findings.wrong(where, f"a sheet that was cut has {found} panels, not {self._of_sheet}")
        if grid is not None:
            self._grids.add(grid)
            self._panels.update(panel_id(grid, number) for number in range(found))

    def _traced(self, kind: Kind, row: dict[str, Any], where: Row) -> None:
        """Whether what a row was made of is among the sheets."""
        if row["grid"] not in self._grids:
            self._findings.wrong(where, f"the sheet of {_one(kind)} is not among the grids")
            return
        if kind == "films":
            panels = [*(row["reference_panels"] or ()), *(row["target_panels"] or ())]
        else:
            panels = [row["reference_panel"], row["target_panel"]]
        if not self._panels.issuperset(panels):
            self._findings.wrong(where, f"a panel of {_one(kind)} is not on its sheet among the grids")

    def _pictures(self, kind: Kind, row: dict[str, Any], where: Row) -> None:
        for column in PICTURES[kind]:
            cell = row[column]
            if cell is None:
                continue
            for content in pictures_in(cell):
                if not content:
                    self._findings.wrong(where, f'a picture of "{column}" has no bytes')
                elif self.pictures:
                    self._decode(content, column, where)

    def _decode(self, content: bytes, column: str, where: Row) -> None:
        digest = hashlib.blake2b(content, digest_size=16).digest()
        if digest not in self._seen:
            self._seen.add(digest)
            self.decoded += 1
            try:
                load_image(content)
            except UserError:
                self._broken.add(digest)
        if digest in self._broken:
            self._findings.wrong(where, f'a picture of "{column}" cannot be decoded')

    def _captioned(self, row: dict[str, Any], where: Row) -> None:
        for side in ("reference", "target"):
            caption = row[f"{side}_caption"]
            if self._worded(caption, where):
                self._captions[row[f"{side}_panel"]] = " ".join(caption.casefold().split())
        if row["reference_caption"] == row["target_caption"]:
            self._findings.note(where, "both pictures of a pair have the same caption")

    def _worded(self, caption: str | None, where: Row) -> bool:
        """Whether a caption says something."""
        if caption is None or re.search(r"\w", caption) is None:
            self._findings.wrong(where, "a caption to train on is empty")
            return False
        return True


def _one(kind: Kind) -> str:
    return {"pairs": "a pair", "rejects": "a reject", "films": "a film"}[kind]


def _of(kind: Kind, first: str) -> str:
    return "in the same kind of rows" if kind == first else f"among the {first}"
