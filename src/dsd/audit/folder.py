"""A dataset's folder as it lies there: finished, or still in the making."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar, get_args

from dsd import runs
from dsd.config import from_json
from dsd.curate.funnel import Funnel
from dsd.curate.units import FOLDER as UNITS
from dsd.curate.units import UnitLedger
from dsd.data.rows import Kind
from dsd.data.store import FUNNEL, MANIFEST, SCHEMA_VERSION, DatasetReader, Shard
from dsd.errors import UserError
from dsd.files import read_json
from dsd.places import Place, Where

Content = TypeVar("Content")
_AGAIN = "copy the dataset again"


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a dataset's folder says of itself.

    Attributes:
        path: of the folder.
        finished: whether it has a manifest.
        schema_version: of its files.
        recipe: the config that made it; with `revisions`, and `made_from` where it was made of other datasets.
        shards: by kind, in order; of an unfinished dataset those of judged units, as their records name them.
        drawn: files of sheets that are not judged yet, with the digests that their records allow.
        funnel: None where it cannot be read.
        fingerprint: SHA-256 of the manifest; empty while there is none.
        trouble: what could not be read, by the file's name in the folder.
    """

    path: Place
    finished: bool
    schema_version: int
    recipe: Mapping[str, Any]
    shards: tuple[Shard, ...]
    drawn: Mapping[str, list[str]] = field(default_factory=dict)
    funnel: Funnel | None = None
    fingerprint: str = ""
    trouble: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained_on(self) -> Kind:
        """The kind of the rows to train on."""
        return "pairs" if self.frames == (1, 1) else "films"

    @property
    def frames(self) -> tuple[int, int]:
        """References and targets of an example."""
        return self.recipe.get("references", 1), self.recipe.get("targets", 1)

    def of(self, *kinds: Kind) -> list[Shard]:
        """The shards of some kinds, in order."""
        return [shard for shard in self.shards if shard.kind in kinds]

    def rows(self, kind: Kind) -> int:
        """How many rows there are of a kind."""
        return sum(shard.rows for shard in self.of(kind))


def is_curated(where: Where) -> bool:
    """Whether `dsd curate` or `dsd data` wrote in a folder, finished or not."""
    return any((Place.of(where) / name).exists() for name in (MANIFEST, UNITS))


def open_folder(where: Where) -> Folder:
    """Reads what a dataset's folder says of itself.

    Args:
        where: `dsd curate` or `dsd data` wrote it; it may be unfinished.

    Raises:
        UserError: no such folder, or a manifest that cannot be read.
    """
    path = Place.of(where)
    if not is_curated(path):
        raise UserError(f'"{path}" is no dataset that `dsd curate` wrote; give the folder of one')
    return _finished(path) if (path / MANIFEST).is_file() else _unfinished(path)


def open_finished(where: Where) -> Folder:
    """Reads a dataset to make another one of, whose files then have other digests: these ones have to hold.

    Raises:
        UserError: it is none, is unfinished, has a file that is not what it was, or its funnel cannot be read.
    """
    DatasetReader(where).verify()
    folder = open_folder(where)
    if folder.funnel is None:
        raise UserError(folder.trouble[FUNNEL])
    return folder


def numbers(folder: Place, ending: str) -> Iterator[int]:
    """Numbers of a folder's files with an ending that are called by them, in order."""
    names = sorted(PurePosixPath(path.name).stem for path in folder.glob(f"*.{ending}"))
    return (int(name) for name in names if name.isdecimal() and name.isascii())


def _finished(path: Place) -> Folder:
    reader = DatasetReader(path, own=False)  # a file that lies elsewhere is a finding
    trouble: dict[str, str] = {}
    funnel = _told(FUNNEL, trouble, lambda: _funnel(path / FUNNEL))
    return Folder(
        path=path,
        finished=True,
        schema_version=reader.manifest.schema_version,
        recipe=reader.manifest.recipe,
        shards=reader.manifest.shards,
        funnel=funnel,
        fingerprint=(path / MANIFEST).sha256(),
        trouble=trouble,
    )


def _unfinished(path: Place) -> Folder:
    """What is there of a dataset in the making, by the records of its units."""
    trouble: dict[str, str] = {}
    config = _told(runs.CONFIG, trouble, lambda: read_json(path / runs.CONFIG, _fields, "curate in another folder"))
    ledger, funnel, shards, version = UnitLedger(path), Funnel(), [], SCHEMA_VERSION
    for number in numbers(path / UNITS, "json"):
        record = _told(f"{UNITS}/{number:05d}.json", trouble, lambda number=number: ledger.written(number))
        if record is not None:
            funnel, shards = funnel + record.funnel, [*shards, *record.shards]
            version = min(version, record.schema)
    known, drawn = {shard.path for shard in shards}, {}
    for number in numbers(path / "grids", "parquet"):
        if (name := f"grids/{number:05d}.parquet") not in known:
            record = f"{UNITS}/sheets-{number:05d}.json"
            drawn[name] = _told(record, trouble, lambda number=number: ledger.written_sheets(number)) or []
    return Folder(
        path=path,
        finished=False,
        schema_version=version,
        recipe=config or {},
        shards=tuple(shard for kind in get_args(Kind) for shard in shards if shard.kind == kind),
        drawn=drawn,
        funnel=funnel,
        trouble=trouble,
    )


def units_of(recipe: Mapping[str, Any]) -> int | None:
    """How many units a curation's config asks for at most; None where it does not say."""
    units = recipe.get("units")
    return units if isinstance(units, int) else None


def _funnel(file: Place) -> Funnel:
    """The funnel of its file, where each number is one."""

    def read(content: Any) -> Funnel:
        try:
            return from_json(Funnel, json.dumps(content))
        except UserError as error:
            raise ValueError(str(error)) from error

    return read_json(file, read, _AGAIN)


def _fields(content: Any) -> dict[str, Any]:
    return dict(content.items())


def _told(name: str, trouble: dict[str, str], read: Callable[[], Content]) -> Content | None:
    """What a file says, or None, with what is wrong among the trouble."""
    try:
        return read()
    except UserError as error:
        trouble[name] = str(error)
        return None
