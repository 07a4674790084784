"""The rows of a dataset's files, a few at a time: their pictures stay the bytes that they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.rows import COLUMNS, ROW_GROUP, Kind
from dsd.errors import UserError, reason_of

PICTURES: dict[Kind, tuple[str, ...]] = {
    kind: tuple(name for name, type_ in columns.items() if type_ in ("image", "images"))
    for kind, columns in COLUMNS.items()
}
"""The columns that hold pictures."""


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows of a file, at most 64 at a time.

    Args:
        path: of the file.
        columns: to read; those of them that the file has. All when left out.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f'"{path}" is missing from the dataset; copy the dataset again')
    try:
        with pq.ParquetFile(path) as file:
            if columns is not None:
                columns = [name for name in columns if name in file.schema_arrow.names]
            yield from file.iter_batches(batch_size=ROW_GROUP, columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f'"{path}" is damaged ({reason_of(error)}); copy the dataset again') from error


def words_of(path: Path, kind: Kind) -> pa.Table:
    """All columns of a file but its pictures."""
    found = list(batches(path, [name for name in schema_of(path).names if name not in PICTURES[kind]]))
    return pa.Table.from_batches(found) if found else schema_of(path).empty_table()


def schema_of(path: Path) -> pa.Schema:
    """The schema of a file, with what it says of the features of its columns.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f'"{path}" is missing from the dataset; copy the dataset again')
    try:
        return pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f'"{path}" is damaged ({reason_of(error)}); copy the dataset again') from error


def rows_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """The rows of a file as dictionaries, see `batches`."""
    for batch in batches(path, columns):
        yield from batch.to_pylist()


def pictures_in(cell: Any) -> list[bytes | None]:
    """The bytes of a cell's pictures; None for one that has none."""
    cells: Iterable[Any] = cell if isinstance(cell, list) else [cell]
    return [one.get("bytes") if isinstance(one, dict) else None for one in cells]
