"""The unit of work: a fixed slice of the captions with a seed of its own, committed twice.

First its sheets are, as the shard of its grids. Then it is judged: that shard is written once more, with what was said
of the panels, and the others are. Shards are written under temporary names, synced and renamed; only then the unit's
record is, in the same way. What has no record is done anew and gives the same bytes, since they depend on the config
and the unit's number alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dsd.curate.claimed import Captions
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.seeds import derive_seed
from dsd.data.records import Caption, Sheet
from dsd.data.rows import Kind, Row
from dsd.data.store import DatasetWriter, Shard, shard_path
from dsd.runs import Ledger

FOLDER = "units"


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A slice of the captions.

    Attributes:
        number: from 0.
        captions: of the slice.
        seed: of everything random in it.
    """

    number: int
    captions: tuple[Caption, ...]
    seed: int


@dataclass(frozen=True, kw_only=True)
class UnitRecord:
    """What is known of a judged unit."""

    number: int
    shards: tuple[Shard, ...]
    funnel: Funnel


@dataclass(frozen=True, kw_only=True)
class Units(Sequence[Unit]):
    """The units of a curation, each read when it is asked for; the last one may be short.

    Attributes:
        captions: all of them.
        config: tells how many a unit has, and the seed.
    """

    captions: Captions
    config: CurateConfig

    def __len__(self) -> int:
        return -(-self.captions.count // self.config.unit_size)

    def __getitem__(self, number: int) -> Unit:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not 0 <= number < len(self):
            raise IndexError(f"there is no unit {number} of {len(self)}")
        start = number * self.config.unit_size
        captions = self.captions.between(start, start + self.config.unit_size)
        return Unit(number=number, captions=captions, seed=self.seed(number))

    def seed(self, number: int) -> int:
        """Of a unit; none of its captions is read."""
        return derive_seed(self.config.seed, "unit", number)

    def size(self, number: int) -> int:
        """How many captions a unit has."""
        return min(self.config.unit_size, self.captions.count - number * self.config.unit_size)


class UnitLedger:
    """What is finished of each unit, in the dataset's folder."""

    def __init__(self, folder: Path) -> None:
        self._records = Ledger(folder / FOLDER)
        self._writer = DatasetWriter(folder)
        self._dataset = folder

    def find_sheets(self, number: int) -> Path | None:
        """The file of a unit's sheets, if they are drawn; it is written whole, so that it needs no record."""
        path = shard_path(self._dataset, "grids", number)
        return path if path.is_file() else None

    def commit_sheets(self, number: int, sheets: Sequence[Sheet]) -> Path:
        """Writes a unit's sheets."""
        return self._dataset / self._writer.write_shard("grids", number, sheets).path

    def find(self, number: int) -> UnitRecord | None:
        """The record of a unit, if it is judged and its shards are there.

        Raises:
            UserError: the record is damaged.
        """
        record = self._records.find(_name(number), lambda content: _record(number, content))
        if record is None or not all((self._dataset / shard.path).is_file() for shard in record.shards):
            return None
        return record

    def commit(self, number: int, rows: Mapping[Kind, Sequence[Row]], funnel: Funnel) -> UnitRecord:
        """Writes a judged unit's shards, and then its record."""
        shards = tuple(self._writer.write_shard(kind, number, records) for kind, records in rows.items() if records)
        record = {"shards": [asdict(shard) for shard in shards], "funnel": funnel.to_dict()}
        self._records.commit(_name(number), record)
        return UnitRecord(number=number, shards=shards, funnel=funnel)


def _name(number: int) -> str:
    return f"{number:05d}"


def _record(number: int, content: dict[str, Any]) -> UnitRecord:
    shards = tuple(Shard(**shard) for shard in content["shards"])
    return UnitRecord(number=number, shards=shards, funnel=Funnel.from_dict(content["funnel"]))
