"""The pairs of a dataset in any order, and choices among them: what was kept, what was drawn, or a part of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from dsd.data.records import Pair, pair_id, turned
from dsd.data.rows import Kind, to_pair
from dsd.data.store import DatasetReader, read_columns
from dsd.places import Where


@dataclass(frozen=True)
class _Place:
    """Where a pair is read."""

    kind: Kind
    row: int
    turned: bool
    id: str
    grid: str


class PairRows(Sequence[Pair]):
    """Pairs of a finished dataset by row, read from the disk as they are asked for, grid after grid.

    Args:
        folder: of the dataset.
        cache: folder for the memory-mapped copy that `datasets` makes of the parquet files.
        only: ids of the pairs to take; None for all.
        refused: also the candidates that were rejected for this reason, in both orders, as if they had been kept.
        limit: the first so many pairs at most.

    Attributes:
        ids: of the pairs.
    """

    def __init__(
        self,
        folder: Where,
        cache: Path,
        *,
        only: Collection[str] | None = None,
        refused: str | None = None,
        limit: int | None = None,
    ) -> None:
        reader = DatasetReader(folder)
        reader.verify()
        kinds: list[Kind] = ["pairs"]
        if refused is not None and reader.manifest.rows("rejects"):
            kinds.append("rejects")
        self._tables = {kind: _table(reader, kind, cache) for kind in kinds}
        rows = [place for kind in kinds for place in _places(reader, kind, refused)]
        rows = [place for place in rows if only is None or place.id in only]
        order = {grid: number for number, grid in enumerate(dict.fromkeys(row.grid for row in rows))}
        self._places = sorted(rows, key=lambda row: order[row.grid])[:limit]  # stable: kept ones first
        self.ids = [place.id for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> list[Pair]: ...
    def __getitem__(self, index: int | slice) -> Pair | list[Pair]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = self._places[index]
        pair = to_pair(self._tables[place.kind][place.row])
        return turned(pair) if place.turned else pair


def ids_of(pairs: Sequence[Any]) -> list[str]:
    """The ids of pairs, without reading their pictures where that can be avoided."""
    return pairs.ids if isinstance(pairs, PairRows) else [pair.id for pair in pairs]


def _places(reader: DatasetReader, kind: Kind, refused: str | None) -> list[_Place]:
    """Kept pairs as they stand, and what was rejected for a reason in both orders."""
    columns = ["id", "grid", "reference_panel", "target_panel", *(["reason"] if kind == "rejects" else [])]
    rows = [row for file in _files(reader, kind) for row in read_columns(file, columns)]
    if kind == "pairs":
        return [_Place(kind, number, False, row["id"], row["grid"]) for number, row in enumerate(rows)]
    return [
        _Place(kind, number, is_turned, identity, row["grid"])
        for number, row in enumerate(rows)
        if row["reason"] == refused
        for is_turned, identity in ((False, row["id"]), (True, pair_id(row["target_panel"], row["reference_panel"])))
    ]


def _files(reader: DatasetReader, kind: Kind) -> list[str]:
    return [str(reader.folder / shard.path) for shard in reader.manifest.of(kind)]


def _table(reader: DatasetReader, kind: Kind, cache: Path) -> Any:
    import datasets

    datasets.disable_progress_bars()  # "Downloading data" would be said of files that lie here
    table = datasets.load_dataset("parquet", data_files=_files(reader, kind), split="train", cache_dir=str(cache))
    for name in ("reference", "target"):
        table = table.cast_column(name, datasets.Image(decode=False))
    return table
