"""A dataset is a folder: shards of parquet, a funnel, a card that `datasets.load_dataset` understands, a manifest.

    manifest.json  funnel.json  README.md  pairs/00000.parquet ...  rejects/00000.parquet ...  grids/00000.parquet ...

The manifest is written last: a folder without one is a dataset in the making.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.data.records import Example, Pair, PanelFilm, Reject, Sheet
from dsd.data.rows import Kind, to_film, to_pair, to_parquet, to_reject, to_sheet
from dsd.errors import UserError
from dsd.files import read_json, sha256_of, write_atomic

Record = TypeVar("Record")

SCHEMA_VERSION = 2
READABLE = (1, SCHEMA_VERSION)
"""Version 1 has no columns of scores and votes (`dsd.data.rows.SINCE_2`), which are then read as None."""
MANIFEST = "manifest.json"
FUNNEL = "funnel.json"


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


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a dataset consists of.

    Attributes:
        schema_version: of the files' layout.
        recipe: the config that made it, and the revisions of everything it names.
        shards: by kind, in order.
    """

    schema_version: int
    recipe: Mapping[str, Any]
    shards: tuple[Shard, ...]

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


def shard_path(folder: Path, kind: Kind, number: int) -> Path:
    """Where shard `number` of a kind is, or will be."""
    return folder / kind / f"{number:05d}.parquet"


def read_shard(path: Path, read: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
    """The records of a shard, in order.

    Args:
        path: of the shard.
        read: makes a record of a row.

    Raises:
        UserError: it is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f'"{path}" is missing from the dataset; copy the dataset again')
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                yield from map(read, batch.to_pylist())
    except pa.ArrowException as error:
        raise UserError(f'"{path}" is damaged ({error}); copy the dataset again') from error


class DatasetWriter:
    """Writes shards, each whole or not at all, and at the end what makes them a dataset.

    Args:
        folder: of the dataset.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_shard(self, kind: Kind, number: int, records: Sequence[Any]) -> Shard:
        """Writes (or writes anew) shard `number` of a kind; equal records give equal bytes.

        Raises:
            ValueError: no records; `datasets` cannot read a file without rows, so none is written.
        """
        if not records:
            raise ValueError(f"shard {number} of {kind} would be empty")
        path = shard_path(self.folder, kind, number)
        write_atomic(path, to_parquet(kind, records))
        name = path.relative_to(self.folder).as_posix()
        return Shard(path=name, kind=kind, rows=len(records), sha256=sha256_of(path))

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
        write_atomic(self.folder / FUNNEL, _json(funnel))
        write_atomic(self.folder / "README.md", _card(manifest))
        write_atomic(self.folder / MANIFEST, _json(asdict(manifest)))


class DatasetReader:
    """Reads a complete dataset.

    Args:
        folder: as curation wrote it.

    Raises:
        UserError: no dataset, an unfinished one, or one of another schema version.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.manifest = _read_manifest(self.folder)

    def __len__(self) -> int:
        return self.manifest.rows(self.manifest.trained_on)

    def examples(self) -> Iterator[Example]:
        """What to train on, in order."""
        return self.pairs() if self.manifest.trained_on == "pairs" else self.films()

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
        return read_json(self.folder / FUNNEL, lambda content: dict(content.items()), "copy the dataset again")

    def verify(self) -> None:
        """Compares every shard with the manifest.

        Raises:
            UserError: a shard is missing or has other bytes.
        """
        for shard in self.manifest.shards:
            path = self.folder / shard.path
            if not path.is_file() or sha256_of(path) != shard.sha256:
                raise UserError(f'"{path}" is missing or not what the manifest says; copy the dataset again')

    def _records(self, kind: Kind, read: Callable[[dict[str, Any]], Record]) -> Iterator[Record]:
        for shard in self.manifest.of(kind):
            yield from read_shard(self.folder / shard.path, read)


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    if not path.is_file():
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
        shards = tuple(Shard(**shard) for shard in content["shards"])
        return Manifest(schema_version=version, recipe=content["recipe"], shards=shards)

    return read_json(path, read, "copy the dataset again")


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def _card(manifest: Manifest) -> str:
    configs, trained_on = [], manifest.trained_on
    kinds: list[Kind] = [kind for kind in get_args(Kind) if kind != "films" or trained_on == "films"]
    for kind in kinds:
        if manifest.rows(kind):
            default = "\n  default: true" if kind == trained_on else ""
            configs.append(f'- config_name: {kind}{default}\n  data_files: "{kind}/*.parquet"')
    counts = ", ".join(f"{manifest.rows(kind)} {kind}" for kind in kinds)
    films = ""
    if trained_on == "films":
        films = (
            "\n`films` holds examples of several references or targets, of panels that were all kept with one another."
        )
    header = "\n".join(["---", "configs:", *configs, "---"]) if configs else ""
    return f"""{header}
# Pairs of one individual in two scenes

Made by `dsd curate`: {counts}. A teacher drew sheets of one subject, a vision-language model judged every two panels.
`pairs` holds what it kept, in both orders: a `reference`, and a `target` under its caption. `rejects` holds the rest
with the `reason`, `grids` a row for each caption. `manifest.json` names the settings and the models.{films}

    datasets.load_dataset("this/folder")             # the {trained_on}
    datasets.load_dataset("this/folder", "rejects")
"""
