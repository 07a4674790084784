"""Phases 1 and 2: captions to a dataset of judged pairs, unit by unit.

Run it again to go on: finished units are skipped, the others give the bytes they would have given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq

from dsd import runs
from dsd.config import to_json
from dsd.curate.captions import CaptionFile
from dsd.curate.claimed import INDEX, Captions, CaptionSource
from dsd.curate.config import CurateConfig
from dsd.curate.diversity import diversity_of
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Executor
from dsd.curate.funnel import Funnel
from dsd.curate.models import JUDGE, Models
from dsd.curate.prompts import repeated
from dsd.curate.tasks.registry import task_of
from dsd.curate.units import FOLDER, UnitLedger, UnitRecord, Units
from dsd.curate.work import Curation
from dsd.data.rows import Kind
from dsd.data.store import MANIFEST, DatasetReader, DatasetWriter, Shard
from dsd.errors import UserError
from dsd.files import make_folder, sweep
from dsd.log import console, progress

CAPTIONS = f"{FOLDER}/{INDEX}"


def curate(config: CurateConfig, out: Path, executor: Executor | None = None) -> Funnel:
    """Makes a dataset, or finishes one.

    Args:
        config: settings; the same for every start.
        out: folder of the dataset.
        executor: where units are worked on; by default in this process.

    Returns:
        What became of the captions.

    Raises:
        UserError: the folder holds a dataset with other settings or of other models, or something in the config
            cannot be used; finished units stay.
    """
    begun = _begun(config, make_folder(out))
    if (out / MANIFEST).exists():
        funnel = Funnel.from_dict(DatasetReader(out).funnel())
        _show(funnel, out)
        return funnel
    if begun:
        sweep(out)
    drawn = Path(config.sheets_from) if config.sheets_from else out
    models, ledger, executor = Models(config), UnitLedger(out), executor or Local()
    source = _captions(config, drawn, begun, out)
    if config.sheets_from:
        _check_drawn(config, drawn)
    work = Curation(units=Units(captions=Captions.of(()), config=config), models=models, ledger=ledger, drawn=drawn)
    sources = partial(executor.sources, work, trying=not begun)
    captions = _claim(config, source, lambda: models.sources(sources()), out)
    work = replace(work, units=Units(captions=captions, config=config))
    records = _run(executor, work)
    funnel = _finish(records, captions, config, out)
    _show(funnel, out)
    return funnel


def _begun(config: CurateConfig, out: Path) -> bool:
    """Whether this dataset was begun in the folder; refuses one with other settings."""
    try:
        begun = runs.begun(out, config, "a dataset")
    except UserError as error:
        raise UserError(f"{error}{_judged_anew(config, out)}") from error
    if not begun and any((out / name).exists() for name in (MANIFEST, *get_args(Kind))):
        raise UserError(f'"{out}" holds a dataset that was made elsewhere; give another folder')
    return begun


def _judged_anew(config: CurateConfig, out: Path) -> str:
    """The way on with the sheets of a folder, where they are those that this config would draw."""
    before = runs.config_of(out, CurateConfig)
    try:
        runs.begun(out, config.judged_as(before))
    except UserError:
        return ""
    return f"; to judge its sheets in this way, give --curate.sheets-from {before.sheets_from or out} --out OTHER"


def _check_drawn(config: CurateConfig, drawn: Path) -> None:
    """Refuses sheets that other settings would have drawn, or that are not all drawn yet."""
    before = runs.config_of(drawn, CurateConfig)
    runs.begun(drawn, config.judged_as(before), "sheets")
    units, ledger = len(Units(captions=Captions.find(drawn / FOLDER), config=config)), UnitLedger(drawn)
    missing = sum(ledger.find_sheets(number) is None for number in range(units))
    if missing:
        raise UserError(f'"{drawn}" lacks the sheets of {missing} of {units} units; run its own command again first')


def _captions(config: CurateConfig, drawn: Path, begun: bool, out: Path) -> CaptionSource:
    """Where the captions of all units come from; a later start goes on with those that the first one took."""
    if config.sheets_from and not (drawn / runs.CONFIG).is_file():
        raise UserError(f'there are no sheets in "{drawn}"; give a folder that `dsd curate` wrote as sheets_from')
    if begun and (out / CAPTIONS).exists():
        return Captions.find(out / FOLDER)
    if config.sheets_from:
        return Captions.find(drawn / FOLDER)
    wanted = config.units * config.unit_size
    if config.subjects:
        return Captions.of(repeated(config.subjects, wanted))
    file = CaptionFile(config.captions, wanted)
    file.require()
    return file


def _claim(config: CurateConfig, source: CaptionSource, sources: Callable[[], dict[str, str]], out: Path) -> Captions:
    """Takes the folder, once everything that the config names has been found; or checks that nothing changed since."""
    if isinstance(source, Captions) and source.folder == out / FOLDER:
        ledger, units = UnitLedger(out), Units(captions=source, config=config)
        if any(ledger.find(number) is None for number in range(len(units))):
            runs.claim(out, config, sources(), "a dataset")
        return source
    found, wanted = sources(), config.units * config.unit_size
    captions = Captions.keep(source, out / FOLDER)
    if captions.count < wanted:
        _say(
            f"warning: {config.captions} gives {captions.count:,} captions, not the {wanted:,} of "
            f"{config.units:,} units; the curation takes those"
        )
    runs.claim(out, config, found, "a dataset")
    return captions


def _run(executor: Executor, work: Curation) -> list[UnitRecord]:
    """Has the work done, and shows how far it is, in captions."""
    sizes = [work.units.size(number) for number in range(len(work))]
    left = [size if work.find(JUDGE, number) is None else 0 for number, size in enumerate(sizes)]
    records = []
    with progress(description="drawing and judging", total=sum(sizes), completed=sum(sizes) - sum(left)) as bar:
        for record, size in zip(executor.run(work), left, strict=True):
            records.append(record)
            bar.advance(size)
    return records


def _finish(records: Sequence[UnitRecord], captions: Captions, config: CurateConfig, out: Path) -> Funnel:
    funnel = sum((record.funnel for record in records), Funnel(captions_skipped=captions.skipped))
    shards = [shard for record in records for shard in record.shards]
    funnel.reconcile(task_of(config.task).candidates)
    _reconcile_rows(funnel, out, shards)
    funnel = replace(funnel, diversity=diversity_of(out, shards))
    recipe: dict[str, Any] = json.loads(to_json(config))
    recipe["revisions"] = runs.sources_of(out)
    DatasetWriter(out).finish(shards, recipe, funnel.to_dict())
    return funnel


def _reconcile_rows(funnel: Funnel, out: Path, shards: Sequence[Shard]) -> None:
    """Proves that the rows on disk are those of the funnel, and that none to train on is there twice.

    Raises:
        RuntimeError: they are not.
    """
    ids: list[str] = []
    outcomes: Counter[tuple[str, str]] = Counter()
    counts: Counter[Kind] = Counter()
    for shard in shards:
        columns = ["id", "outcome", "reason"] if shard.kind == "rejects" else ["id"]
        rows = pq.read_table(out / shard.path, columns=columns).to_pylist()
        counts[shard.kind] += len(rows)
        if shard.kind == "rejects":
            outcomes.update((row["outcome"], row["reason"]) for row in rows)
        if shard.kind != "grids":
            ids += [row["id"] for row in rows]
    expected = {("rejected", reason): count for reason, count in funnel.rejected.items()}
    expected |= {("failed", reason): count for reason, count in funnel.failed.items()}
    found = counts["pairs"], counts["films"], counts["grids"]
    if dict(outcomes) != expected or found != (funnel.pairs, funnel.films or 0, funnel.captions):
        raise RuntimeError(f'the rows in "{out}" are not those of the funnel: {dict(outcomes)} against {expected}')
    if len(set(ids)) != len(ids):
        raise RuntimeError(f'"{out}" holds {len(ids) - len(set(ids))} rows twice')


def _show(funnel: Funnel, out: Path) -> None:
    for line in (*funnel.lines(), f"in {out}"):
        _say(line)


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)
