"""The unit of work: a fixed slice of the captions with a seed of its own, committed twice.

First its sheets are, as the shard of its grids. Then it is judged: that shard is written once more, with what was said
of the panels, and the others are. Shards are seen whole or not at all; only then the record that names their digests is
written, in the same way. What has no record, or is not what its record says, is done anew and gives the same bytes,
since they depend on the config and the unit's number alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar, get_args

from dsd.curate.claimed import Captions
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.seeds import derive_seed
from dsd.data.records import Caption, Sheet
from dsd.data.rows import PNG, Kind, Pictures, Row
from dsd.data.store import SCHEMA_VERSION, DatasetWriter, Shard, damaged_shards, shard_path
from dsd.files import DamagedFile
from dsd.log import console
from dsd.places import Place, Where
from dsd.runs import Ledger

Record = TypeVar("Record")

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
    """What is known of a judged unit.

    Attributes:
        number: of the unit.
        shards: that it was written to.
        funnel: of its captions.
        schema: version of the shards.
    """

    number: int
    shards: tuple[Shard, ...]
    funnel: Funnel
    schema: int


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
    """What is finished of each unit, in the dataset's folder: with the bytes that it was written with, or not at all.

    Args:
        folder: of the dataset.
        pictures: how those of panels are written.
    """

    def __init__(self, folder: Where, pictures: Pictures = PNG) -> None:
        self.dataset = Place.of(folder)
        self._records = Ledger(self.dataset / FOLDER)
        self._writer = DatasetWriter(self.dataset, pictures)
        self._found: dict[int, UnitRecord] = {}  # once they were compared with the files
        self._told: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_found": {}, "_told": set()}

    def find_sheets(self, number: int) -> Place | None:
        """The file of a unit's sheets, if they are drawn and nobody changed it."""
        path = shard_path(self.dataset, "grids", number)
        record = self._record(number)
        accepted = [shard.sha256 for shard in (record.shards if record else ()) if shard.kind == "grids"]
        accepted += self._read(_sheets_name(number), _digests) or ()
        try:
            if not accepted or path.sha256() in accepted:
                return path if accepted else None
        except FileNotFoundError:
            return None
        self._tell(f'"{path}" is not what was written; the sheets of unit {number} are drawn anew')
        return None

    def commit_sheets(self, number: int, sheets: Sequence[Sheet]) -> Place:
        """Writes a unit's sheets, and then a record of them."""
        shard = self._writer.write_shard("grids", number, sheets)
        self._records.commit(_sheets_name(number), {"sha256": [shard.sha256]})
        return self.dataset / shard.path

    def find(self, number: int) -> UnitRecord | None:
        """The record of a unit, if it is judged and its shards are there as they were written.

        Raises:
            UserError: the place cannot be read.
        """
        if number in self._found:
            return self._found[number]
        record = self._record(number)
        if record is None or record.schema != SCHEMA_VERSION:
            return None
        if damaged := damaged_shards(self.dataset, record.shards):
            self._tell(f'"{self.dataset / damaged[0].path}" is not what was written; unit {number} is done anew')
            return None
        self._found[number] = record
        return record

    def written(self, number: int) -> UnitRecord | None:
        """What the record of a unit says, whether its shards are as it says or not.

        Raises:
            DamagedFile: it is not what was written.
        """
        return self._records.find(_name(number), lambda content: _record(number, content))

    def written_sheets(self, number: int) -> list[str]:
        """The digests that the file of a unit's sheets may have, as the record of its drawing says.

        Raises:
            DamagedFile: it is not what was written.
        """
        return self._records.find(_sheets_name(number), _digests) or []

    def commit(self, number: int, rows: Mapping[Kind, Sequence[Row]], funnel: Funnel) -> UnitRecord:
        """Writes a judged unit's shards, and then its record."""
        made = self._writer.shards(number, rows)
        drawn = self._read(_sheets_name(number), _digests)
        if drawn and "grids" in made:  # whichever of both is there after a kill is known
            self._records.commit(_sheets_name(number), {"sha256": [*drawn[:1], made["grids"][0].sha256]})
        for shard, content in made.values():
            (self.dataset / shard.path).write_atomic(content)
        for kind in get_args(Kind):
            if kind not in made:  # of a judgement that was forgotten
                shard_path(self.dataset, kind, number).remove()
        record = UnitRecord(
            number=number,
            shards=tuple(shard for shard, _ in made.values()),
            funnel=funnel,
            schema=SCHEMA_VERSION,
        )
        self._records.commit(_name(number), _content(record))
        self._found[number] = record
        return record

    def forget(self, number: int, *, sheets: bool) -> None:
        """Has a unit judged again, or drawn too; its shards stay until they are written anew.

        Args:
            number: of the unit.
            sheets: whether they are drawn again.
        """
        self._found.pop(number, None)
        if sheets:
            self._records.path(_sheets_name(number)).remove()
        elif (record := self._record(number)) is not None:
            grids = [shard.sha256 for shard in record.shards if shard.kind == "grids"]
            if not self._read(_sheets_name(number), _digests):
                self._records.commit(_sheets_name(number), {"sha256": grids})
        self._records.path(_name(number)).remove()

    def _record(self, number: int) -> UnitRecord | None:
        return self._read(_name(number), lambda content: _record(number, content))

    def _read(self, name: str, read: Callable[[Any], Record]) -> Record | None:
        """A record; a damaged one is none, and what it is of is done anew."""
        try:
            return self._records.find(name, read)
        except DamagedFile as error:
            self._tell(f"{error}")
            return None

    def _tell(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            console.print(line)


def _sheets_name(number: int) -> str:
    return f"sheets-{number:05d}"


def _digests(content: Any) -> list[str]:
    return [str(digest) for digest in content["sha256"]]


def _name(number: int) -> str:
    return f"{number:05d}"


def _record(number: int, content: dict[str, Any]) -> UnitRecord:
    record = UnitRecord(
        number=number,
        shards=tuple(map(Shard.from_dict, content["shards"])),
        funnel=Funnel.from_dict(content["funnel"]),
        schema=int(content.get("schema", 1)),
    )
    if record.schema > 1 and content != _content(record):  # before there was no digest of it
        raise ValueError("it is not what was written for this unit")
    return record


def _content(record: UnitRecord) -> dict[str, Any]:
    """A record as JSON, with a digest of the rest."""
    content = {
        "schema": record.schema,
        "number": record.number,
        "shards": [asdict(shard) for shard in record.shards],
        "funnel": record.funnel.to_dict(),
    }
    return content | {"sha256": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}
