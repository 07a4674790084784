"""A short curation in a temporary folder, timed: what a long one takes on this machine."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.past import RowBytes, estimated_rows
from dsd.errors import UserError
from dsd.places import Place

if TYPE_CHECKING:  # imported where it is used: `dsd --help` is quick
    from dsd.curate.units import UnitRecord
    from dsd.curate.work import Curation
    from dsd.data.records import Caption

UNITS = 2
MOST = 16
"""Captions a unit of a trial, at most."""
_THINGS = ("a red cat", "a blue mug", "an old robot", "a green dog", "a wooden boat", "a small owl", "a white horse")
_PLACES = ("at the beach", "in the snow", "on a table", "under a tree", "in a city at night")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What a trial found.

    Attributes:
        captions: that went through it.
        start: seconds until models are loaded.
        seconds: of each stage, a caption.
        funnel: of its captions.
        rows: how large its rows are.
        device: that the teacher drew on.
        cores: that it kept busy on average; fewer than a machine has, where others work on it too.
        own_captions: whether it had to think of captions, as the file cannot be read.
    """

    captions: int
    start: float
    seconds: Mapping[str, float]
    funnel: Funnel
    rows: RowBytes
    device: str
    cores: float
    own_captions: bool


def not_here(config: CurateConfig) -> str:
    """Why a curation cannot be tried on this machine, as the rest of a sentence; empty where it can be."""
    if config.sheets_from:
        return f"the sheets are those of {config.sheets_from}"
    models = [config.teacher, config.judge] + ([] if config.subjects else [config.chat])
    for name in models:
        if not name.startswith("embedded:") and not Path(name).is_dir():
            return f"{name} does not compute on this machine"
    return ""


def run_trial(config: CurateConfig) -> Trial:
    """Curates a few captions and times every stage of it.

    Args:
        config: what is planned; all its models are on this machine.

    Raises:
        UserError: something in the config cannot be used, or there is no room for temporary files.
    """
    began = time.perf_counter()
    from dsd.curate.claimed import Captions
    from dsd.curate.models import Models
    from dsd.curate.units import UnitLedger, Units
    from dsd.curate.work import Curation
    from dsd.devices import default_device

    size = min(config.unit_size, MOST)
    texts, own = _texts(config, UNITS * size)
    small = replace(config, units=UNITS, unit_size=min(size, -(-len(texts) // UNITS)))
    with _folder() as folder:
        place = Place.of(folder)
        work = Curation(
            units=Units(captions=Captions.of(texts), config=small),
            models=Models(small),
            ledger=UnitLedger(place, small.pictures),
            drawn=place,
        )
        for stage in work.stages:
            work.sources(stage, trying=False)
        loaded = time.perf_counter() - began
        began, computed = time.perf_counter(), time.process_time()
        taken, records = zip(*(_timed(work, number) for number in range(len(work))), strict=True)
        cores = (time.process_time() - computed) / (time.perf_counter() - began)
        rows = _rows(Path(folder), records, estimated_rows(config))
    seconds = {stage: sum(unit[stage] for unit in taken) / len(texts) for stage in work.stages}
    return Trial(
        captions=len(texts),
        start=loaded,
        seconds=seconds,
        funnel=sum((record.funnel for record in records), Funnel()),
        rows=rows,
        device=default_device(),
        cores=cores,
        own_captions=own,
    )


def _timed(work: Curation, number: int) -> tuple[dict[str, float], UnitRecord]:
    """Seconds of each stage of a unit, and its record; in a thread beside the first, as a curation does it."""
    given: Any = None
    seconds = {}
    with ThreadPoolExecutor(1) as pool:
        for stage in work.stages:
            began = time.perf_counter()
            given = pool.submit(work.do, stage, number, given).result()
            seconds[stage] = time.perf_counter() - began
    return seconds, given


def _rows(folder: Path, records: Sequence[UnitRecord], estimated: RowBytes) -> RowBytes:
    """How large rows are; files beside them count as the blocks that they take."""
    size, rows = Counter[str](), Counter[str]()
    for shard in (shard for record in records for shard in record.shards):
        size[shard.kind] += (folder / shard.path).stat().st_size
        rows[shard.kind] += shard.rows
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    blocks = sum(512 * file.st_blocks for file in files) - sum(size.values())
    return replace(estimated.measured(size, rows), unit=blocks / len(records))


def _texts(config: CurateConfig, wanted: int) -> tuple[list[Caption], bool]:
    """Captions of the config's, and whether they are some of our own instead."""
    from dsd.curate.captions import CaptionFile
    from dsd.curate.prompts import repeated
    from dsd.data.records import Caption

    if config.subjects:
        return list(repeated(config.subjects, wanted)), False
    if Place.of(config.captions).is_file() or "*" in config.captions:
        return list(islice(CaptionFile(config.captions, wanted), wanted)), False
    own = (f"{thing} {place}, {number}" for number, (thing, place) in enumerate(product(_THINGS, _PLACES)))
    return [Caption(text=text) for text in islice(own, wanted)], True


@contextmanager
def _folder() -> Iterator[str]:
    try:
        made = tempfile.TemporaryDirectory(prefix="dsd-plan-", ignore_cleanup_errors=True)
    except OSError as error:
        raise UserError(
            f"there is no folder for temporary files to calibrate in ({error}); set TMPDIR, or give --no-calibrate"
        ) from error
    with made as folder:
        yield folder
