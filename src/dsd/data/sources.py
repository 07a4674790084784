"""Where examples come from: a curated dataset, or the user's own pictures, in any layout that `datasets` reads.

- a folder that `dsd curate` wrote, here or at an address that fsspec knows;
- a folder of pictures with a ``metadata.jsonl`` or ``metadata.csv`` (or such a file itself, of any name): a row an
  example, pictures by their names in it;
- what `datasets` loads: a folder of ``save_to_disk``, a folder of its files, one of them, or a hub id (a stream);
- a webdataset: a ``.tar``, or a folder of them, with members such as ``000.reference.png 000.target.png 000.txt``.

A reference or a target is a picture, or a list of them where an example has several.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd.data.own import Columns, OwnRows
from dsd.data.records import Example
from dsd.data.tables import Row, rows_of
from dsd.errors import UserError, reason_of
from dsd.files import sha256_of
from dsd.places import Place

METADATA = ("metadata.jsonl", "metadata.csv")
"""Files that describe the pictures beside them, a row each."""
_OF_TABLES = (".jsonl", ".csv")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}
_UNITS = "units"
_SAVED_TO_DISK = "state.json"


@dataclass(frozen=True, kw_only=True)
class Source:
    """Examples in a fixed order.

    Attributes:
        examples: starts to read them, from the first one on.
        fingerprint: of the content, as far as that can be told without reading all of it.
        total: how many there are; None where that is not known beforehand.
        own: the user's own data, row by row; None for a curated dataset.
        some: starts to read only those whose numbers, from 0 on, are wanted, and gives None for others; None where all
            have to be read.
        verify: makes sure that what is read is what the fingerprint tells of, where only reading all of it can tell;
            raises `UserError`.
    """

    examples: Callable[[], Iterator[Example]]
    fingerprint: str
    verify: Callable[[], None] = lambda: None
    total: int | None = None
    own: OwnRows | None = None
    some: Callable[[Callable[[int], bool]], Iterator[Example | None]] | None = None


def open_source(
    data: str | Path, columns: Columns | None = None, *, skip_bad_rows: bool = False, one_size: bool = False
) -> Source:
    """Finds out what the data are.

    Args:
        data: a folder, a single file, a hub id, or the address of a folder that `dsd curate` wrote (``s3://...``).
        columns: of the user's own data.
        skip_bad_rows: leave out rows that cannot be used, and say how many, where the first one else ends the reading.
        one_size: a row with a picture of another size than the first one's cannot be used.

    Raises:
        UserError: there are no such data, or none of a kind that can be read; while reading, also for a bad row.
    """
    place = Place.of(data)
    with place.reading():
        return _opened(data, place, columns or Columns(), skip_bad_rows, one_size)


def _opened(data: str | Path, place: Place, columns: Columns, skip_bad_rows: bool, one_size: bool) -> Source:
    from dsd.data.store import MANIFEST, DatasetReader

    path = Path(data)
    if place.local is None or (path / MANIFEST).is_file() or (path / _UNITS).is_dir():  # unfinished ones are refused
        reader = DatasetReader(place)
        return Source(
            examples=reader.examples, fingerprint=(place / MANIFEST).sha256()[:16], verify=reader.verify,
            total=len(reader), some=reader.some_examples,
        )  # fmt: skip
    folder = path.parent if path.is_file() else path
    tables = [path] if path.is_file() else [path / name for name in METADATA]
    table = next((table for table in tables if table.suffix in _OF_TABLES and table.is_file()), None)
    if table is not None:
        rows, where, digest = metadata_rows(table), str(table), sha256_of(table)
    elif path.is_file() and path.suffix not in _BUILDERS:
        raise UserError(
            f'"{path}" is no single file that can be read; give one that ends in '
            f"{', '.join((*_OF_TABLES, *_BUILDERS))}, or the folder that it lies in"
        )
    elif path.exists():
        files = _files_of(path)
        rows, where = _dataset_rows(path), str(path)
        digest = _digest_of(folder, [file.relative_to(folder).as_posix() for file in files])
    elif str(data).count("/") == 1 and not path.is_absolute() and not str(data).startswith("."):
        rows, where, digest = _hub_rows(str(data)), str(data), str(data)
    else:
        raise UserError(
            f'there are no data at "{data}"; give a folder that `dsd curate` wrote, a folder of pictures with '
            f"{' or '.join(METADATA)}, a dataset's folder, a webdataset, or a hub id (owner/name)"
        )
    reading = OwnRows(rows=rows, where=where, folder=folder, columns=columns, skip=skip_bad_rows, one_size=one_size)
    if table is not None:
        digest = f"{digest} {_digest_of(folder, reading.files())}"
    digest = hashlib.sha256(f"{digest} {columns}".encode()).hexdigest()[:16]
    return Source(examples=reading.examples, fingerprint=digest, own=reading)


def _listed(cell: Any) -> Any:
    """A cell of a table that says a list as JSON."""
    if isinstance(cell, str) and cell.startswith("["):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def metadata_rows(path: Path) -> Callable[[], Iterator[Row]]:
    """Starts to read the rows of a ``metadata.jsonl`` or ``.csv``; a cell of the latter may say a list as JSON."""

    def rows() -> Iterator[Row]:
        with path.open("rb") as file:
            for row in rows_of(file, str(path)):
                if path.suffix == ".csv" and not isinstance(row, UserError):
                    row = {name: _listed(cell) for name, cell in row.items()}
                yield row

    return rows


def _dataset_rows(path: Path) -> Callable[[], Iterator[Row]]:
    """Rows of a local dataset in a layout that `datasets` knows."""

    def rows() -> Iterator[Row]:
        import datasets

        tars = _tars(path)
        try:
            if (path / _SAVED_TO_DISK).is_file():
                saved: Any = datasets.load_from_disk(str(path))
                found: Any = saved.to_iterable_dataset()
            elif path.is_file() or tars:
                files, builder = (
                    [str(file) for file in tars or [path]],
                    "webdataset" if tars else _BUILDERS[path.suffix],
                )
                found = datasets.load_dataset(builder, data_files=files, split="train", streaming=True)
            else:
                found = datasets.load_dataset(str(path), split="train", streaming=True)
            yield from found.decode(False)
        except UserError:
            raise
        except Exception as error:
            raise _unreadable(str(path), error) from error

    return rows


def _tars(path: Path) -> list[Path]:
    """A webdataset's archives, if it is one."""
    if path.suffix == ".tar":
        return [path]
    return sorted(tar for tar in path.glob("*.tar") if _is_seen(tar, path)) if path.is_dir() else []


def _hub_rows(name: str) -> Callable[[], Iterator[Row]]:
    def rows() -> Iterator[Row]:
        import datasets

        try:
            found: Any = datasets.load_dataset(name, split="train", streaming=True)
            yield from found.decode(False)
        except Exception as error:
            raise _unreadable(name, error) from error

    return rows


def _unreadable(name: str, error: Exception) -> UserError:
    return UserError(
        f'"{name}" cannot be read as a dataset ({reason_of(error)}); give a folder that `dsd curate` wrote, a folder '
        f"of pictures with {' or '.join(METADATA)}, a dataset of the `datasets` library, or a webdataset"
    )


def _files_of(path: Path) -> list[Path]:
    """The files that `datasets` may read of a local dataset; hidden ones it leaves alone."""
    if path.is_file():
        return [path]
    if (path / _SAVED_TO_DISK).is_file():
        return sorted(file for file in path.iterdir() if file.suffix in (".arrow", ".json") and _is_seen(file, path))
    if tars := _tars(path):
        return tars
    return sorted(file for file in path.rglob("*") if file.is_file() and _is_seen(file, path))


def _is_seen(file: Path, folder: Path) -> bool:
    return not any(part.startswith((".", "__")) for part in file.relative_to(folder).parts)


def _digest_of(folder: Path, files: Iterable[str]) -> str:
    """Names, sizes and times of files.

    Args:
        folder: that their names are relative to.
        files: their names; one that is not there counts as that.
    """
    digest = hashlib.sha256()
    for name in files:
        try:
            stat = (folder / name).stat()
            state = f"{stat.st_size}\0{stat.st_mtime_ns}"
        except (OSError, ValueError):  # whoever reads the row says what is wrong
            state = "not there"
        digest.update(f"{name}\0{state}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
