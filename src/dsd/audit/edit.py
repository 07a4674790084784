"""Filter, split and merge: which rows of datasets make a new one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from dsd.audit.folder import Folder, open_finished
from dsd.audit.rows import PICTURES, rows_of, schema_of, words_of
from dsd.audit.selecting import Selection, Taken, new_folder, say, write
from dsd.audit.where import condition
from dsd.curate.diversity import words_of as plain_of
from dsd.curate.pairs import BELOW, DIFFERENT, NO_SCORE
from dsd.data.rows import COLUMNS, Kind
from dsd.errors import UserError
from dsd.places import Place, Where

_OF_KEPT = {"outcome": "kept", "reason": "", "words": ""}
"""What pairs have in the columns of rejects."""
_ROW = "\0row"
By = Literal["subject", "grid"]


def filter_dataset(path: Where, where: str, out: Where) -> None:
    """Makes a dataset of the candidates, kept and rejected, of which a condition holds, and of their sheets.

    Args:
        path: of a finished dataset.
        where: the condition, see `dsd.audit.where`.
        out: folder of the new one.

    Raises:
        UserError: no finished dataset, a condition that cannot be read, nothing left, or a place that is taken.
    """
    folder, out = open_finished(path), Place.of(out)
    out.require_apart(folder.path, "the dataset's folder")
    expression = condition(where, _comparable(folder))
    taken: dict[str, list[bool]] = {}
    grids: set[str] = set()
    kept: set[frozenset[str]] = set()
    dropped: dict[frozenset[str], str] = {}
    for shard in folder.of("pairs", "rejects"):
        table = words_of(folder.path / shard.path, shard.kind)
        taken[shard.path] = _holds(table, shard.kind, expression)
        rows = zip(*(table[name].to_pylist() for name in ("grid", "reference_panel", "target_panel")), strict=True)
        for (grid, *panels), holds in zip(rows, taken[shard.path], strict=True):
            if holds:
                grids.add(grid)
                kept.add(frozenset(panels))
            else:
                dropped.setdefault(frozenset(panels), grid)
    for shard in folder.of("grids"):
        ids = words_of(folder.path / shard.path, "grids")["id"].to_pylist()
        taken[shard.path] = [identity in grids for identity in ids]
    for shard in folder.of("films"):
        rows = words_of(folder.path / shard.path, "films").to_pylist()
        taken[shard.path] = [kept.issuperset(map(frozenset, combinations(_panels(row), 2))) for row in rows]
    left_out = sum(grid in grids and panels not in kept for panels, grid in dropped.items())
    made = {"by": f"filter --where {where}", "where": where}
    selection = Selection(parts=[(folder, taken)], made=made, left_out={f"unless {where}": left_out})
    with new_folder(out) as new:
        funnel = write(selection, new)
    say(funnel, out)


def split_dataset(path: Where, validation: float, by: By, out: Where) -> None:
    """Makes two datasets of one, ``train`` and ``validation``, that share no subject or no sheet.

    Args:
        path: of a finished dataset.
        validation: the share of subjects or sheets on the validation side, in (0, 1).
        by: what stays on one side.
        out: folder of both.

    Raises:
        UserError: no finished dataset, a share out of range, too few to split, or a place that is taken.
    """
    if not 0 < validation < 1:
        raise UserError(f"--validation is {validation:g}, but must be a share between 0 and 1, such as 0.1")
    folder, out = open_finished(path), Place.of(out)
    out.require_apart(folder.path, "the dataset's folder")
    groups = _Groups.of(folder, by)
    chosen = groups.first(validation)
    with new_folder(out) as new:
        for side, inside in (("train", False), ("validation", True)):
            taken = {name: [(key in chosen) == inside for key in keys] for name, keys in groups.rows.items()}
            made = {"by": f"split --by {by} --validation {validation:g}", "side": side}
            funnel = write(Selection(parts=[(folder, taken)], made=made), new / side)
            say(funnel, out / side)


def merge_datasets(paths: Sequence[Where], out: Where) -> None:
    """Makes one dataset of several; what is in more than one of them is taken once.

    Args:
        paths: of finished datasets.
        out: folder of the new one.

    Raises:
        UserError: fewer than two, other schema versions, tasks or frames, one id with different content, or a place
            that is taken.
    """
    if len(paths) < 2:
        raise UserError(f"{len(paths)} dataset is given to be merged; give at least two")
    folders, out = [open_finished(path) for path in paths], Place.of(out)
    for folder in folders:
        out.require_apart(folder.path, "the dataset's folder")
    first = folders[0]
    for folder in folders[1:]:
        for what, of in (
            ("schema version", lambda one: one.schema_version),
            ("task", lambda one: one.recipe.get("task")),
            ("references and targets", lambda one: one.frames),
        ):
            if of(folder) != of(first):
                raise UserError(
                    f'"{first.path}" has {what} {of(first)}, but "{folder.path}" has {of(folder)}; merge datasets that '
                    "agree in it"
                )
    skipped: Counter[str] = Counter()
    for folder in folders:
        skipped.update({} if folder.funnel is None else folder.funnel.captions_skipped)
    parts = list(zip(folders, _once(folders), strict=True))
    with new_folder(out) as new:
        funnel = write(Selection(parts=parts, made={"by": "merge"}, skipped=skipped), new)
    say(funnel, out)


def _comparable(folder: Folder) -> Mapping[str, pa.DataType]:
    """The columns that a condition may name, by their types; those of pairs and of rejects alike."""
    columns: dict[str, pa.DataType] = {}
    for shard in folder.of("pairs", "rejects"):
        for field in schema_of(folder.path / shard.path):
            if field.name not in PICTURES[shard.kind]:
                columns.setdefault(field.name, field.type)
    return columns | dict.fromkeys(_OF_KEPT, pa.string()) | {"same": pa.bool_()}


def _holds(table: pa.Table, kind: Kind, expression: pc.Expression) -> list[bool]:
    """For each row whether a condition holds; not where a column of it is empty."""
    for name, value in _OF_KEPT.items():
        if name not in table.column_names:
            table = table.append_column(name, pa.array([value] * table.num_rows, pa.string()))
    if "same" not in table.column_names:
        table = table.append_column("same", _same(table, kind))
    table = table.append_column(_ROW, pa.array(range(table.num_rows), pa.int64()))
    found = set(table.filter(expression)[_ROW].to_pylist())
    return [row in found for row in range(table.num_rows)]


def _same(table: pa.Table, kind: Kind) -> pa.Array:
    """What the judge decided; nothing where it was not asked or gave no answer."""
    if kind == "pairs":
        return pa.array([True] * table.num_rows, pa.bool_())
    said = {DIFFERENT: False, BELOW: True, NO_SCORE: True}
    return pa.array([said.get(reason) for reason in table["reason"].to_pylist()], pa.bool_())


def _panels(film: Mapping[str, Any]) -> list[str]:
    return [*film["reference_panels"], *film["target_panels"]]


@dataclass(frozen=True)
class _Groups:
    """Of each row of each file, the group that it belongs to."""

    rows: Mapping[str, Sequence[str]]
    trained: frozenset[str]
    by: By

    @classmethod
    def of(cls, folder: Folder, by: By) -> _Groups:
        """Sheets by themselves, or by the subject of their prompts."""
        group: dict[str, str] = {}
        rows: dict[str, list[str]] = {}
        trained: set[str] = set()
        for shard in folder.of("grids"):
            keys = []
            for row in rows_of(folder.path / shard.path, ("id", "caption_id", "subject")):
                own = row["id"] or row["caption_id"]
                key = own if by == "grid" else plain_of(row["subject"] or "") or own
                if row["id"] is not None:
                    group[row["id"]] = key
                keys.append(key)
            rows[shard.path] = keys
        for shard in folder.of("pairs", "rejects", "films"):
            keys = []
            for row in rows_of(folder.path / shard.path, ("grid", "subject")):
                own = row["grid"] if by == "grid" else plain_of(row["subject"] or "") or row["grid"]
                keys.append(group.setdefault(row["grid"], own))
            rows[shard.path] = keys
            if shard.kind == folder.trained_on:
                trained.update(keys)
        return cls(rows, frozenset(trained), by)

    def first(self, share: float) -> set[str]:
        """The groups whose hashes come first, so many that they are this share of those to train on."""
        ordered = sorted(self.trained, key=_hash)
        if len(ordered) < 2:
            raise UserError(
                f"there are examples of {len(ordered)} {self.by}, but two sides need two; "
                + ("give --by grid" if self.by == "subject" else "curate more")
            )
        count = min(max(1, round(share * len(ordered))), len(ordered) - 1)
        last = _hash(ordered[count - 1])
        return {key for keys in self.rows.values() for key in keys if _hash(key) <= last}


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _once(folders: Sequence[Folder]) -> list[Taken]:
    """For each dataset its rows that no earlier one has."""
    owners: dict[str, tuple[int, Kind]] = {}
    again: set[str] = set()
    for number, folder in enumerate(folders):
        for kind, _, identity in _ids(folder):
            if identity is None:
                continue
            owner = owners.setdefault(identity, (number, kind))
            if owner[1] != kind:
                raise _differ(folders[owner[0]], folder, identity)
            if owner[0] != number:
                again.add(identity)
    content: dict[str, str] = {}
    taken: list[Taken] = []
    for number, folder in enumerate(folders):
        rows: dict[str, list[bool]] = {shard.path: [] for shard in folder.shards}
        for shard in folder.shards:
            for row in rows_of(folder.path / shard.path) if _any(folder, shard.path, again) else ():
                identity = row["id"]
                if identity in again:
                    digest = _digest(row, shard.kind)
                    if content.setdefault(identity, digest) != digest:
                        raise _differ(folders[owners[identity][0]], folder, identity)
                rows[shard.path].append(identity not in again or owners[identity][0] == number)
            rows[shard.path] = rows[shard.path] or [True] * shard.rows
        taken.append(rows)
    return taken


def _ids(folder: Folder) -> Iterator[tuple[Kind, str, str | None]]:
    for shard in folder.shards:
        for row in rows_of(folder.path / shard.path, ("id",)):
            yield shard.kind, shard.path, row["id"]


def _any(folder: Folder, name: str, ids: set[str]) -> bool:
    """Whether a file has one of these ids."""
    return bool(ids) and any(row["id"] in ids for row in rows_of(folder.path / name, ("id",)))


def _digest(row: Mapping[str, Any], kind: Kind) -> str:
    return hashlib.sha256(
        repr([(name, row.get(name)) for name in COLUMNS[kind]]).encode("utf-8", "surrogatepass")
    ).hexdigest()


def _differ(first: Folder, second: Folder, identity: str) -> UserError:
    return UserError(
        f'"{first.path}" and "{second.path}" both hold {identity}, but say different things of it, as two judges of '
        "the same sheets do; merge datasets of different sheets, or filter one of them first"
    )
