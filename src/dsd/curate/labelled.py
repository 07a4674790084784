"""Pairs of pictures of which somebody knows whether they show one individual: what a judge is held against."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dsd.curate.judge import Candidate
from dsd.curate.panels import Described
from dsd.data.records import Description, Panel
from dsd.data.sources import METADATA
from dsd.data.tables import Row, rows_of
from dsd.errors import UserError, cut
from dsd.images import load_image

_TABLES = (".csv", ".tsv", ".jsonl")
_PICTURES = (("first", "reference"), ("second", "target"))
_LABEL = "same"
_SAID = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """Two pictures and the truth about them.

    Attributes:
        first, second: files, or their bytes.
        same: whether they show one individual.
    """

    first: Path | bytes
    second: Path | bytes
    same: bool

    def pictures(self) -> tuple[Image.Image, Image.Image]:
        """Both, decoded.

        Raises:
            UserError: one of them is no picture.
        """
        return load_image(self.first), load_image(self.second)


def read_labelled(path: Path) -> list[LabelledPair]:
    """Reads labelled pairs, and tries every picture, since a judge that is asked half of them is paid for nothing.

    Args:
        path: a table (``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet``) with the columns ``first`` and ``second`` (or
            ``reference`` and ``target``), which hold pictures or the names of their files beside the table, and
            ``same``: true or false, yes or no, 1 or 0. Or a folder with such a table called ``metadata``, or with
            parquet files.

    Raises:
        UserError: there is no such table, or a row of it cannot be used.
    """
    found = []
    for table in _tables_of(path):
        for number, row in enumerate(_rows(table), start=1):
            try:
                found.append(_pair(row, table.parent))
            except UserError as error:
                raise UserError(f'"{table}", row {number}: {error}') from error
    if len({pair.same for pair in found}) < 2:
        which = "no rows" if not found else f"pairs that are all {'the same' if found[0].same else 'different'}"
        raise UserError(f'"{path}" holds {which}; give pairs that are the same and pairs that are not')
    return found


def fingerprint(pairs: Sequence[LabelledPair]) -> str:
    """Of the pictures and labels, in their order."""
    digest = hashlib.sha256()
    for pair in pairs:
        for one in (pair.first, pair.second):
            digest.update(hashlib.sha256(one if isinstance(one, bytes) else one.read_bytes()).digest())
        digest.update(b"same" if pair.same else b"other")
    return digest.hexdigest()[:16]


def pair_of(name: str, first: Image.Image, second: Image.Image) -> Candidate:
    """Two pictures as curation asks about them; ``name`` decides the question's seed."""
    panels = [
        Panel(grid=name, number=number, image=image, description=Description())
        for number, image in enumerate((first, second))
    ]
    return Candidate(*(Described(panel) for panel in panels))


def _tables_of(path: Path) -> list[Path]:
    if path.is_file() and path.suffix in (*_TABLES, ".parquet"):
        return [path]
    tables = [table for name in METADATA if (table := path / name).is_file()][:1] or sorted(path.glob("*.parquet"))
    if not tables:
        raise UserError(
            f'there are no labelled pairs in "{path}"; give a table ({", ".join(_TABLES)} or .parquet) with the '
            f"columns first, second and same, or a folder with {' or '.join(METADATA)} of these columns"
        )
    return tables


def _rows(table: Path) -> Iterator[Row]:
    try:
        if table.suffix == ".parquet":
            with pq.ParquetFile(table) as file:
                for batch in file.iter_batches(batch_size=64):
                    yield from batch.to_pylist()
            return
        with table.open("rb") as file:
            yield from rows_of(file, str(table))
    except (pa.ArrowException, OSError) as error:
        raise UserError(f'"{table}" cannot be read ({error}); write it again') from error


def _pair(row: Row, folder: Path) -> LabelledPair:
    if isinstance(row, UserError):
        raise row
    first, second = (_picture(row, names, folder) for names in _PICTURES)
    pair = LabelledPair(first=first, second=second, same=_label(row))
    pair.pictures()
    return pair


def _picture(row: Mapping[str, Any], names: Sequence[str], folder: Path) -> Path | bytes:
    name = next((name for name in names if name in row), None)
    if name is None:
        raise UserError(f'there is no column "{names[0]}", only {cut(", ".join(row), 400)}; name the columns so')
    cell = row[name]
    if isinstance(cell, Mapping):  # an image of `datasets`
        cell = cell.get("bytes") or cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str) and cell.strip():
        return folder / cell
    raise UserError(f'the column "{name}" holds {cut(repr(cell))}, but must hold a picture or the name of its file')


def _label(row: Mapping[str, Any]) -> bool:
    label = row.get(_LABEL)
    said = label if isinstance(label, bool) else _SAID.get(str(label).strip().lower())
    if said is None:
        raise UserError(f'the column "{_LABEL}" holds {cut(repr(label))}, but must hold true or false')
    return said
