"""Some rows of datasets become a dataset of their own; pictures pass as the bytes that they are."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.audit.folder import Folder
from dsd.audit.rows import batches, schema_of
from dsd.audit.sums import COLUMNS, Sums
from dsd.curate.diversity import diversity_of
from dsd.curate.ending import show
from dsd.curate.funnel import Funnel
from dsd.curate.tasks.registry import DEFAULT, task_of
from dsd.data.rows import ROW_GROUP, Kind
from dsd.data.store import DatasetWriter, Shard, shard_path
from dsd.errors import UserError
from dsd.files import atomic_folder
from dsd.locks import held
from dsd.log import console, progress
from dsd.places import Place

MOST_BYTES = 1 << 28
"""A file of rows is ended when it has grown so large, and the next one begun."""
EARLIER = "by what it was made of"

Taken = Mapping[str, Sequence[bool]]
"""By the name of a file: for each of its rows whether it is taken. Files that are not named are left out."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which rows of some datasets make a new one.

    Attributes:
        parts: each dataset with the rows that are taken of it.
        made: how, for the manifest.
        skipped: rows of caption files that the funnel tells of.
        left_out: candidates that are left out of sheets that are taken, by what was told.
    """

    parts: Sequence[tuple[Folder, Taken]]
    made: Mapping[str, Any]
    skipped: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


@contextmanager
def new_folder(out: Place) -> Iterator[Place]:
    """A folder to fill. Here it is seen whole or not at all; elsewhere it is a dataset once its manifest is there.

    Raises:
        UserError: the place is taken.
    """
    if out.local is not None:
        with atomic_folder(out.local) as folder:
            yield Place.of(folder)
        return
    if out.exists():
        raise UserError(f'"{out}" is not empty; give a new folder, or remove what lies there first')
    with held(out, "a dataset"):
        yield out


def write(selection: Selection, out: Place) -> Funnel:
    """Writes a dataset.

    Args:
        selection: of its rows.
        out: an empty folder.

    Returns:
        Its funnel.

    Raises:
        UserError: no row is taken, or a file is damaged.
    """
    if not any(any(rows) for _, taken in selection.parts for rows in taken.values()):
        raise UserError(f"no row is left after {selection.made['by']}; take more")
    sums, shards = Sums(), []
    for kind in get_args(Kind):
        files = [(folder, shard, taken) for folder, taken in selection.parts for shard in folder.of(kind)]
        writer = _Writer(out, kind)
        for folder, shard, taken in progress(files, description=f"copying {kind}"):
            if shard.path in taken:
                _copy(folder.path / shard.path, kind, taken[shard.path], writer, sums)
        shards += writer.finish()
    folders = [folder for folder, _ in selection.parts]
    funnel = replace(_funnel(sums, selection, folders[0]), diversity=diversity_of(out, shards))
    recipe = {**_common(folders), "made_from": {**selection.made, "of": [_provenance(one) for one in folders]}}
    DatasetWriter(out).finish(shards, recipe, funnel.to_dict(), schema_version=folders[0].schema_version)
    return funnel


def say(funnel: Funnel, out: Place) -> None:
    """Shows what became of it."""
    show(funnel, out)
    if not funnel.examples:
        console.print("warning: none of these rows is one to train on")


class _Writer:
    """Files of one kind of rows, one after the other."""

    def __init__(self, out: Place, kind: Kind) -> None:
        self._out = out
        self._kind: Kind = kind
        self._shards: list[Shard] = []
        self._buffer, self._rows = io.BytesIO(), 0
        self._file: pq.ParquetWriter | None = None
        self._waiting: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch, schema: pa.Schema) -> None:
        """Appends rows."""
        if self._file is not None and not self._file.schema.equals(schema):
            self._end()
        if self._file is None:
            self._buffer, self._rows = io.BytesIO(), 0
            self._file = pq.ParquetWriter(self._buffer, schema, compression="zstd", compression_level=3, version="2.6")
        self._waiting.append(batch)
        self._rows += batch.num_rows
        if sum(one.num_rows for one in self._waiting) >= ROW_GROUP:
            self._group()
        if self._buffer.tell() >= MOST_BYTES:
            self._end()

    def finish(self) -> list[Shard]:
        """Ends the last file; returns all."""
        if self._file is not None:
            self._end()
        return self._shards

    def _group(self) -> None:
        assert self._file is not None
        self._file.write_table(pa.Table.from_batches(self._waiting), row_group_size=ROW_GROUP)
        self._waiting = []

    def _end(self) -> None:
        assert self._file is not None
        if self._waiting:
            self._group()
        self._file.close()
        self._file = None
        path = shard_path(self._out, self._kind, len(self._shards))
        path.write_atomic(self._buffer.getvalue())
        name = f"{self._kind}/{path.name}"
        self._shards.append(Shard(path=name, kind=self._kind, rows=self._rows, sha256=path.sha256()))


def _copy(path: Place, kind: Kind, rows: Sequence[bool], writer: _Writer, sums: Sums) -> None:
    """Passes the rows of a file that are taken to the writer."""
    at, schema = 0, schema_of(path)
    for batch in batches(path):
        mask = rows[at : at + batch.num_rows]
        at += batch.num_rows
        if any(mask):
            taken = batch.filter(pa.array(mask, pa.bool_()))
            writer.add(taken, schema)
            for row in taken.select(list(COLUMNS[kind])).to_pylist() if COLUMNS[kind] else [{}] * taken.num_rows:
                sums.add(kind, row)


def _funnel(sums: Sums, selection: Selection, folder: Folder) -> Funnel:
    """The funnel of the new rows, where every candidate of their sheets is accounted for."""
    counted, of_sheet = sums.funnel(), task_of(folder.recipe.get("task", DEFAULT)).candidates
    films = None if folder.trained_on == "pairs" else counted.films or 0
    candidates = of_sheet * counted.sheets
    left_out = {name: count for name, count in selection.left_out.items() if count}
    earlier = candidates - counted.candidates - sum(left_out.values())
    if earlier < 0:
        raise UserError(
            f"there are {-earlier:,} candidates more than their sheets have, so that some are there twice or sheets "
            "are missing; see what `dsd data check` says of what this is made of"
        )
    if earlier:
        left_out[EARLIER] = earlier
    funnel = replace(
        counted,
        candidates=candidates,
        films=films,
        captions_skipped=dict(selection.skipped),
        left_out=left_out or None,
    )
    funnel.reconcile(of_sheet)
    return funnel


def _common(folders: Sequence[Folder]) -> dict[str, Any]:
    """What the recipes of all agree on."""
    first, *others = [folder.recipe for folder in folders]
    agreed = {name: value for name, value in first.items() if all(name in o and o[name] == value for o in others)}
    agreed.pop("made_from", None)
    return agreed


def _provenance(folder: Folder) -> dict[str, Any]:
    funnel = {} if folder.funnel is None else folder.funnel.to_dict()
    return {"manifest": folder.fingerprint, "recipe": dict(folder.recipe), "funnel": funnel}
