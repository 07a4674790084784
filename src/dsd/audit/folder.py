"""A dataset's folder as it lies there: finished, or still in the making."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from dsd import runs
from dsd.curate.funnel import Funnel
from dsd.curate.units import FOLDER as UNITS
from dsd.curate.units import UnitLedger
from dsd.data.rows import Kind
from dsd.data.store import FUNNEL, MANIFEST, SCHEMA_VERSION, DatasetReader, Shard
from dsd.errors import UserError
from dsd.files import read_json, sha256_of

Content = TypeVar("Content")


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a dataset's folder says of itself.

    Attributes:
        path: of the folder.
        finished: whether it has a manifest.
        schema_version: of its files.
        recipe: the config that made it; with `revisions`, and `made_from` where it was made of other datasets.
        shards: by kind, in order; of an unfinished dataset those of judged units, as their records name them.
        drawn: files of sheets that are not judged yet; none has a record.
        funnel: None where it cannot be read.
        fingerprint: SHA-256 of the manifest; empty while there is none.
        trouble: what could not be read, by the file's name in the folder.
    """

    path: Path
    finished: bool
    schema_version: int
    recipe: Mapping[str, Any]
    shards: tuple[Shard, ...]
    drawn: tuple[str, ...] = ()
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


def is_curated(path: Path) -> bool:
    """Whether `dsd curate` or `dsd data` wrote in a folder, finished or not."""
    return any((path / name).exists() for name in (MANIFEST, UNITS))


def open_folder(path: Path) -> Folder:
    """Reads what a dataset's folder says of itself.

    Args:
        path: as `dsd curate` or `dsd data` wrote it; it may be unfinished.

    Raises:
        UserError: no such folder, or a manifest that cannot be read.
    """
    if not is_curated(path):
        raise UserError(f'"{path}" is no dataset that `dsd curate` wrote; give the folder of one')
    return _finished(path) if (path / MANIFEST).is_file() else _unfinished(path)


def open_finished(path: Path) -> Folder:
    """Reads a dataset to make another one of.

    Raises:
        UserError: it is none, is unfinished, or its funnel cannot be read.
    """
    DatasetReader(path)  # who tells what is wrong
    folder = open_folder(path)
    if folder.funnel is None:
        raise UserError(f'"{path / FUNNEL}" cannot be read ({folder.trouble[FUNNEL]}); copy the dataset again')
    return folder


def _finished(path: Path) -> Folder:
    reader = DatasetReader(path)
    trouble: dict[str, str] = {}
    funnel = _told(FUNNEL, trouble, lambda: read_json(path / FUNNEL, Funnel.from_dict, "copy the dataset again"))
    return Folder(
        path=path,
        finished=True,
        schema_version=reader.manifest.schema_version,
        recipe=reader.manifest.recipe,
        shards=reader.manifest.shards,
        funnel=funnel,
        fingerprint=sha256_of(path / MANIFEST),
        trouble=trouble,
    )


def _unfinished(path: Path) -> Folder:
    """What is there of a dataset in the making, by the records of its units."""
    trouble: dict[str, str] = {}
    config = _told(runs.CONFIG, trouble, lambda: read_json(path / runs.CONFIG, dict, "curate in another folder"))
    ledger, funnel, shards = UnitLedger(path), Funnel(), []
    for number in _numbers(path / UNITS, "json"):
        record = _told(f"{UNITS}/{number:05d}.json", trouble, lambda number=number: ledger.find(number))
        if record is None:
            trouble.setdefault(
                f"{UNITS}/{number:05d}.json",
                "the record, or a file that it names, is damaged; the unit is done anew when the curation goes on",
            )
        else:
            funnel, shards = funnel + record.funnel, [*shards, *record.shards]
    known = {shard.path for shard in shards}
    drawn = [f"grids/{number:05d}.parquet" for number in _numbers(path / "grids", "parquet")]
    return Folder(
        path=path,
        finished=False,
        schema_version=SCHEMA_VERSION,
        recipe=config or {},
        shards=tuple(shard for kind in get_args(Kind) for shard in shards if shard.kind == kind),
        drawn=tuple(name for name in drawn if name not in known),
        funnel=funnel,
        trouble=trouble,
    )


def units_of(recipe: Mapping[str, Any]) -> int | None:
    """How many units a curation's config asks for at most; None where it does not say."""
    units = recipe.get("units")
    return units if isinstance(units, int) else None


def _numbers(folder: Path, ending: str) -> Iterator[int]:
    """Numbers of a unit's files, in order."""
    names = sorted(path.stem for path in folder.glob(f"*.{ending}"))
    return (int(name) for name in names if name.isdecimal())


def _told(name: str, trouble: dict[str, str], read: Callable[[], Content]) -> Content | None:
    """What a file says, or None, with what is wrong among the trouble."""
    try:
        return read()
    except UserError as error:
        trouble[name] = str(error)
        return None
