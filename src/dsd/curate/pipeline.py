"""Phases 1 and 2: captions to a dataset of judged pairs, unit by unit; first all sheets are drawn, then judged.

Run it again to go on: finished units are skipped, the others give the bytes they would have given.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from dsd import runs
from dsd.curate.captions import Captions, read_captions
from dsd.curate.config import CurateConfig
from dsd.curate.ending import ask_again, finish, finished, say, show
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Executor, Record, Work
from dsd.curate.funnel import Funnel
from dsd.curate.models import Models
from dsd.curate.prompts import repeated
from dsd.curate.units import FOLDER, Unit, UnitLedger, split_into_units
from dsd.curate.work import Drawing, Judging
from dsd.data.records import Caption
from dsd.data.rows import Kind
from dsd.data.store import MANIFEST
from dsd.errors import UserError
from dsd.files import DamagedFile, read_json
from dsd.locks import held
from dsd.log import progress
from dsd.places import Place, Where

CAPTIONS = f"{FOLDER}/captions.json"


def curate(config: CurateConfig, out: Where, executor: Executor | None = None) -> Funnel:
    """Makes a dataset, or finishes one.

    Args:
        config: settings; the same for every start.
        out: folder of the dataset, local or at an address that fsspec knows.
        executor: where units are worked on; by default in this process.

    Returns:
        What became of the captions.

    Raises:
        NoPairs: nothing was kept; what failed is asked again by the next start.
        UserError: the folder holds a dataset with other settings or of other models, another process works in it, or
            something in the config cannot be used; finished units stay.
    """
    out = Place.of(out)
    funnel = finished(out) if _begun(config, out) else None
    if funnel is None:
        with held(out, "a dataset"):
            funnel = _curate(config, out, executor or Local())
    show(funnel, out)
    return funnel


def _curate(config: CurateConfig, out: Place, executor: Executor) -> Funnel:
    begun = _begun(config, out)
    if begun:
        out.sweep()
    drawn = Place.of(config.sheets_from or out)
    captions = _captions(config, drawn, begun)
    units = split_into_units(captions.taken, config)
    if config.sheets_from:
        _check_drawn(config, drawn, units)
    models, ledger = Models(config), UnitLedger(out, config.pictures)
    if begun:
        ask_again(ledger, len(units), draws=not config.sheets_from)
    drawing = Drawing(units=units, models=models, ledger=ledger)
    judging = Judging(units=units, models=models, ledger=ledger, drawn=drawn)
    if not begun:
        models.require_servers()
    if not begun or any(judging.find(number) is None for number in range(len(units))):
        _claim(config, captions, models.sources(), out)
    (out / MANIFEST).remove()  # of a dataset that is no longer whole
    if not config.sheets_from:
        _run(executor, drawing, units, "drawing sheets")
    records = _run(executor, judging, units, "judging sheets")
    return finish(records, captions.skipped, config, out)


def _begun(config: CurateConfig, out: Place) -> bool:
    """Whether this dataset was begun in the folder; refuses one with other settings."""
    try:
        begun = runs.begun(out, config, "a dataset")
    except UserError as error:
        raise UserError(f"{error}{_judged_anew(config, out)}") from error
    if not begun and any((out / name).exists() for name in (MANIFEST, *get_args(Kind))):
        raise UserError(f'"{out}" holds a dataset that was made elsewhere; give another folder')
    if begun and not (out / runs.SOURCES).exists():
        raise DamagedFile(f'"{out / runs.SOURCES}" is missing; bring it back, or give another folder')
    return begun


def _judged_anew(config: CurateConfig, out: Place) -> str:
    """The way on with the sheets of a folder, where they are those that this config would draw."""
    before = runs.config_of(out, CurateConfig)
    try:
        runs.begun(out, config.judged_as(before))
    except UserError:
        return ""
    return f"; to judge its sheets in this way, give --curate.sheets-from {before.sheets_from or out} --out OTHER"


def _check_drawn(config: CurateConfig, drawn: Place, units: Sequence[Unit]) -> None:
    """Refuses sheets that other settings would have drawn, or that are not all drawn yet."""
    before = runs.config_of(drawn, CurateConfig)
    runs.begun(drawn, config.judged_as(before), "sheets")
    missing = sum(UnitLedger(drawn).find_sheets(unit.number) is None for unit in units)
    if missing:
        raise UserError(
            f'"{drawn}" lacks the sheets of {missing} of {len(units)} units; run its own command again first'
        )


def _captions(config: CurateConfig, drawn: Place, begun: bool) -> Captions:
    """The captions of all units; a later start goes on with those that the first one took."""
    path = drawn / CAPTIONS
    if config.sheets_from and not (drawn / runs.CONFIG).exists():
        raise UserError(f'there are no sheets in "{drawn}"; give a folder that `dsd curate` wrote as sheets_from')
    if config.sheets_from or (begun and path.exists()):
        return read_json(path, _taken, "bring it back, or curate in another folder")
    wanted = config.units * config.unit_size
    if config.subjects:
        return Captions(taken=repeated(config.subjects, wanted), skipped={})
    captions = read_captions(config.captions, wanted)
    if len(captions.taken) < wanted:
        say(
            f"warning: {config.captions} gives {len(captions.taken):,} captions, not the {wanted:,} of "
            f"{config.units:,} units; the curation takes those"
        )
    return captions


def _taken(content: Any) -> Captions:
    """What `_claim` wrote of the captions."""
    texts = content["taken"]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise TypeError("taken is no list of captions")
    return Captions(taken=tuple(Caption(text=text) for text in texts), skipped=dict(content["skipped"]))


def _claim(config: CurateConfig, captions: Captions, sources: dict[str, str], out: Place) -> None:
    """Takes the folder, once everything that the config names has been found; or checks that nothing changed since."""
    taken = {"taken": [caption.text for caption in captions.taken], "skipped": captions.skipped}
    (out / CAPTIONS).write_atomic(json.dumps(taken, indent=0, ensure_ascii=False) + "\n")
    runs.claim(out, config, sources, "a dataset")


def _run(executor: Executor, work: Work[Record], units: Sequence[Unit], description: str) -> list[Record]:
    """Has the work done, and shows how far it is, in captions."""
    sizes = [len(unit.captions) for unit in units]
    left = [size if work.find(number) is None else 0 for number, size in enumerate(sizes)]
    records = []
    with progress(description=description, total=sum(sizes), completed=sum(sizes) - sum(left)) as bar:
        for record, size in zip(executor.run(work), left, strict=True):
            records.append(record)
            bar.advance(size)
    return records
