"""A dataset is a folder: shards of parquet, a funnel, a card that `datasets.load_dataset` understands, a manifest.

    manifest.json  funnel.json  README.md  pairs/00000.parquet ...  rejects/00000.parquet ...  grids/00000.parquet ...

The manifest is written last: a folder without one is a dataset in the making.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.card import CARD, card
from dsd.data.records import Example, Pair, PanelFilm, Reject, Sheet
from dsd.data.rows import PNG, EncodedOnce, Encoder, Kind, Pictures, to_film, to_pair, to_parquet, to_reject, to_sheet
from dsd.errors import UserError, cut, reason_of
from dsd.files import DamagedFile, read_json
from dsd.places import Place, Where

Record = TypeVar("Record")

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 has no columns of scores and votes (`dsd.data.rows.SINCE_2`), which are then read as None."""
MANIFEST = "manifest.json"
FUNNEL = "funnel.json"
_FILE = re.compile(r"[a-z]+/[^/\\\0]+\.parquet")
_SHA256 = re.compile("[0-9a-f]{64}")
_AGAIN = "copy the dataset again, or run the command that curated it, which makes anew what is damaged"
_READ_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of rows.

    Attributes:
        path: inside the dataset folder.
        kind: of the rows.
        rows: how many.
        sha256: of the file's bytes.
    """

    path: str
    kind: Kind
    rows: int
    sha256: str

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Shard:
        """The inverse of `dataclasses.asdict`.

        Raises:
            LookupError, TypeError, ValueError: something else.
        """
        path, kind, rows, sha256 = (content[name] for name in ("path", "kind", "rows", "sha256"))
        if kind not in get_args(Kind):
            raise ValueError(f"there is no kind {kind!r}")
        if not isinstance(path, str):
            raise TypeError(f"{path!r} is no path")
        if type(rows) is not int or rows < 1:
            raise ValueError(f"{path} has {rows!r} rows")
        if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
            raise ValueError(f"{path} has the digest {sha256!r}")
        return cls(path=path, kind=kind, rows=rows, sha256=sha256)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset consists of.

    Attributes:
        schema_version: of the files' layout.
        recipe: the config that made it, and the revisions of everything it names.
        shards: by kind, in order.
        files: SHA-256 of the files beside them, by name; of earlier datasets it is not known.
    """

    schema_version: int
    recipe: Mapping[str, Any]
    shards: tuple[Shard, ...]
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained_on(self) -> Kind:
        """The kind of the rows to train on: pairs, or films where its recipe makes examples of more frames."""
        frames = self.recipe.get("references", 1), self.recipe.get("targets", 1)
        return "pairs" if frames == (1, 1) else "films"

    def of(self, kind: Kind) -> list[Shard]:
        """The shards of a kind, in order."""
        return [shard for shard in self.shards if shard.kind == kind]

    def rows(self, kind: Kind) -> int:
        """How many rows there are of a kind."""
        return sum(shard.rows for shard in self.of(kind))


def is_finished(folder: Where) -> bool:
    """Whether a folder has a manifest.

    Raises:
        UserError: something else has its name, such as a folder or a device.
    """
    path = Place.of(folder) / MANIFEST
    if path.is_file():
        return True
    if path.exists() or (path.local is not None and path.local.is_symlink()):
        raise UserError(f'"{path}" is no file; remove it, and run the same command again')
    return False


def shard_path(folder: Where, kind: Kind, number: int) -> Place:
    """Where shard `number` of a kind is, or will be."""
    return Place.of(folder) / f"{kind}/{number:05d}.parquet"


def read_shard(path: Where, read: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
    """The records of a shard, in order.

    Args:
        path: of the shard.
        read: makes a record of a row.

    Raises:
        DamagedFile: it is missing or damaged.
        UserError: it cannot be read.
    """
    with open_shard(path) as file:
        for batch in file.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                yield _read(row, read, Place.of(path))


def _read(row: dict[str, Any], read: Callable[[dict[str, Any]], Record], path: Place) -> Record:
    try:
        return read(row)
    except UserError as error:  # a picture that does not decode
        raise _damaged(path, error) from error


def read_columns(path: Where, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Some columns of a shard, a row each; see `read_shard`."""
    with open_shard(path) as file:
        rows: list[dict[str, Any]] = file.read(columns=list(columns)).to_pylist()
        if rows and (lacking := set(columns) - set(rows[0])):
            raise KeyError(min(lacking))
        return rows


def read_row(path: Where, row: int, read: Callable[[dict[str, Any]], Record]) -> Record:
    """One record of a shard, for which the one row group that holds it is read; see `read_shard`.

    Args:
        path: of the shard.
        row: its place in it, from 0.
        read: makes a record of a row.
    """
    with open_shard(path) as file:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if row < rows:
                return _read(file.read_row_group(group).slice(row, 1).to_pylist()[0], read, Place.of(path))
            row -= rows
        raise ValueError(f"it has {row} rows too few")


@contextmanager
def open_shard(where: Where) -> Iterator[pq.ParquetFile]:
    """Opens a shard; what is read of it while the block runs is told of in the same way.

    Raises:
        DamagedFile: it is missing or damaged.
        UserError: it cannot be read.
    """
    path = Place.of(where)
    try:
        with path.reading(), path.open() as opened, _parsing(path), pq.ParquetFile(opened) as file:
            yield file
    except FileNotFoundError as error:
        raise DamagedFile(f'"{path}" is missing from the dataset; {_AGAIN}') from error


@contextmanager
def _parsing(path: Place) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise  # of the place; what pyarrow says of a file's content has no number
        raise _damaged(path, error) from error


def _damaged(path: Place, error: Exception) -> DamagedFile:
    return DamagedFile(f'"{path}" is damaged ({cut(reason_of(error))}); {_AGAIN}')


def is_intact(folder: Where, shard: Shard) -> bool:
    """Whether a shard is there with the bytes that it was written with.

    Raises:
        UserError: the place cannot be read.
    """
    try:
        return (Place.of(folder) / shard.path).sha256() == shard.sha256
    except FileNotFoundError:
        return False


def damaged_shards(folder: Where, shards: Sequence[Shard]) -> list[Shard]:
    """Those that are missing or have other bytes; all are read, several at once.

    Raises:
        UserError: the place cannot be read.
    """
    place = Place.of(folder)
    with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
        intact = threads.map(lambda shard: is_intact(place, shard), shards)
        return [shard for shard, whole in zip(shards, intact, strict=True) if not whole]


class DatasetWriter:
    """Writes shards, each whole or not at all, and at the end what makes them a dataset.

    Args:
        folder: of the dataset.
        pictures: how those of panels are written.
    """

    def __init__(self, folder: Where, pictures: Pictures = PNG) -> None:
        self.folder = Place.of(folder)
        self.pictures = pictures

    def write_shard(self, kind: Kind, number: int, records: Sequence[Any]) -> Shard:
        """Writes (or writes anew) shard `number` of a kind; equal records give equal bytes.

        Raises:
            ValueError: no records; `datasets` cannot read a file without rows, so none is written.
            UserError: the place cannot be written to, or a text is no Unicode.
        """
        shard, content = _shard(kind, number, records, self.pictures)
        (self.folder / shard.path).write_atomic(content)
        return shard

    def shards(self, number: int, records: Mapping[Kind, Sequence[Any]]) -> dict[Kind, tuple[Shard, bytes]]:
        """What `write_shard` writes as number ``number`` of each kind that has records, and the bytes.

        Nothing is written; a picture that is in several records is encoded once.
        """
        once = EncodedOnce(self.pictures)
        return {kind: _shard(kind, number, some, once) for kind, some in records.items() if some}

    def write_funnel(self, funnel: Mapping[str, Any]) -> None:
        """Writes what became of everything; without a manifest that makes no dataset."""
        (self.folder / FUNNEL).write_atomic(_json(funnel))

    def finish(
        self,
        shards: Sequence[Shard],
        recipe: Mapping[str, Any],
        funnel: Mapping[str, Any],
        *,
        schema_version: int = SCHEMA_VERSION,
    ) -> None:
        """Writes funnel, card and manifest; with the last the dataset is complete."""
        shards = [shard for kind in get_args(Kind) for shard in shards if shard.kind == kind]
        manifest = Manifest(schema_version=schema_version, recipe=recipe, shards=tuple(shards))
        rows = {kind: manifest.rows(kind) for kind in get_args(Kind)}
        beside = {FUNNEL: _json(funnel), CARD: card(rows, manifest.trained_on, with_scores=schema_version > 1)}
        for name, text in beside.items():
            (self.folder / name).write_atomic(text)
        files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in beside.items()}
        (self.folder / MANIFEST).write_atomic(_json(asdict(replace(manifest, files=files))))


def _shard(kind: Kind, number: int, records: Sequence[Any], pictures: Encoder) -> tuple[Shard, bytes]:
    if not records:
        raise ValueError(f"shard {number} of {kind} would be empty")
    content = to_parquet(kind, records, pictures)
    name = f"{kind}/{number:05d}.parquet"
    return Shard(path=name, kind=kind, rows=len(records), sha256=hashlib.sha256(content).hexdigest()), content


class DatasetReader:
    """Reads a complete dataset.

    Args:
        folder: as curation wrote it.
        own: refuse files that are not the dataset's own; whoever does not reads none before a look at its path.

    Raises:
        UserError: no dataset, an unfinished one, one of another schema version, or one with files that lie elsewhere.
    """

    def __init__(self, folder: Where, *, own: bool = True) -> None:
        self.folder = Place.of(folder)
        self.manifest = _read_manifest(self.folder)
        if own:
            _require_inside(self.folder, self.manifest.shards)

    def __len__(self) -> int:
        return self.manifest.rows(self.manifest.trained_on)

    def examples(self) -> Iterator[Example]:
        """What to train on, in order."""
        return self.pairs() if self.manifest.trained_on == "pairs" else self.films()

    def some_examples(self, wanted: Callable[[int], bool]) -> Iterator[Example | None]:
        """What to train on, in order, and None in the place of what is not wanted, whose pictures are not decoded.

        Args:
            wanted: of each by its number, from 0 on.
        """
        kind, numbers = self.manifest.trained_on, count()
        read = to_pair if kind == "pairs" else to_film
        return self._records(kind, lambda row: read(row) if wanted(next(numbers)) else None)

    def pairs(self) -> Iterator[Pair]:
        """Kept pairs, in order."""
        return self._records("pairs", to_pair)

    def films(self) -> Iterator[PanelFilm]:
        """Examples of more than two frames, in order."""
        return self._records("films", to_film)

    def rejects(self) -> Iterator[Reject]:
        """Candidates that were not kept, in order."""
        return self._records("rejects", to_reject)

    def sheets(self) -> Iterator[Sheet]:
        """What became of each caption, in order."""
        return self._records("grids", to_sheet)

    def funnel(self) -> dict[str, Any]:
        """The content of ``funnel.json``."""
        return read_json(self.folder / FUNNEL, lambda content: dict(content.items()), _AGAIN)

    def verify(self) -> None:
        """Compares every shard with the manifest.

        Raises:
            DamagedFile: one is missing or has other bytes.
            UserError: the place cannot be read.
        """
        for shard in damaged_shards(self.folder, self.manifest.shards):
            raise DamagedFile(f'"{self.folder / shard.path}" is missing or not what the manifest says; {_AGAIN}')

    def is_as_written(self, name: str) -> bool:
        """Whether a file beside the shards has the bytes that it was written with, as far as the manifest knows."""
        try:
            digest = (self.folder / name).sha256()
        except FileNotFoundError:
            return False
        return self.manifest.files.get(name, digest) == digest

    def _records(self, kind: Kind, read: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
        for shard in self.manifest.of(kind):
            yield from read_shard(self.folder / shard.path, read)


def _read_manifest(folder: Place) -> Manifest:
    path = folder / MANIFEST
    if not is_finished(folder):
        raise UserError(
            f'"{folder}" is no finished dataset (it has no {MANIFEST}); give the folder of `dsd curate`, '
            "or run the same command again to finish it"
        )

    def read(content: Any) -> Manifest:
        version = content["schema_version"]
        if version not in READABLE:
            raise UserError(
                f'"{folder}" is a dataset of schema version {version}, but this version of dsd reads '
                f"{' and '.join(map(str, READABLE))}; curate it again, or use the dsd that wrote it"
            )
        shards = tuple(map(Shard.from_dict, content["shards"]))
        files = {str(name): str(digest) for name, digest in content.get("files", {}).items()}
        return Manifest(schema_version=version, recipe=dict(content["recipe"].items()), shards=shards, files=files)

    return read_json(path, read, _AGAIN)


def _require_inside(folder: Place, shards: Sequence[Shard]) -> None:
    """Refuses files that are not the dataset's own: that lie elsewhere, hold rows of another kind or count twice.

    Raises:
        UserError: there is one.
    """
    inside = None if folder.local is None else Path(os.path.realpath(folder.local))
    seen: set[str] = set()
    for shard in shards:
        if not _FILE.fullmatch(shard.path) or not shard.path.startswith(f"{shard.kind}/") or shard.path in seen:
            what = "twice" if shard.path in seen else f"as a file of {shard.kind}, which lie in {shard.kind}/"
            raise DamagedFile(f'"{folder / MANIFEST}" is damaged (it names {cut(repr(shard.path))} {what}); {_AGAIN}')
        seen.add(shard.path)
        if inside is None or (found := Path(os.path.realpath(inside / shard.path))).is_relative_to(inside):
            continue
        raise UserError(
            f'"{folder / shard.path}" is a link that leads out of the dataset, to "{found}"; copy that file to its '
            "place"
        )


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
