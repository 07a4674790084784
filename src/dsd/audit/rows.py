"""The rows of a dataset's files, a few at a time: their pictures stay the bytes that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.rows import COLUMNS, ROW_GROUP, Kind
from dsd.data.store import open_shard
from dsd.places import Place

PICTURES: dict[Kind, tuple[str, ...]] = {
    kind: tuple(name for name, type_ in columns.items() if type_ in ("image", "images"))
    for kind, columns in COLUMNS.items()
}
"""The columns that hold pictures."""


def batches(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, at most 64 at a time.

    Args:
        path: of the file.
        columns: to read; those of them that the file has. All when left out.

    Raises:
        UserError: it is missing or damaged.
    """
    with open_shard(path) as file:
        yield from _batches(file, columns)


def rows_of(path: Place, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file as dictionaries, see `batches`; columns that the file lacks are None."""
    lacking = dict.fromkeys(columns or ())
    with open_shard(path) as file:
        for batch in _batches(file, columns):
            yield from (lacking | row for row in batch.to_pylist())


def words_of(path: Place, kind: Kind) -> pa.Table:
    """All columns of a file but its pictures; see `batches`."""
    with open_shard(path) as file:
        return file.read(columns=[name for name in file.schema_arrow.names if name not in PICTURES[kind]])


def schema_of(path: Place) -> pa.Schema:
    """The schema of a file, with what it says of the features of its columns; see `batches`."""
    with open_shard(path) as file:
        return file.schema_arrow


def pictures_in(cell: Any) -> list[bytes | None]:
    """The bytes of a cell's pictures; None for one that has none."""
    cells: Iterable[Any] = cell if isinstance(cell, list) else [cell]
    return [one.get("bytes") if isinstance(one, dict) else None for one in cells]


def _batches(file: pq.ParquetFile, columns: Sequence[str] | None) -> Iterator[pa.RecordBatch]:
    names = file.schema_arrow.names
    return file.iter_batches(
        batch_size=ROW_GROUP, columns=names if columns is None else [name for name in columns if name in names]
    )
