"""Phases 1 and 2: captions to a dataset of judged pairs, unit by unit.

Run it again to go on: finished units are skipped, the others give the bytes they would have given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

from dsd import runs
from dsd.curate.captions import CaptionFile
from dsd.curate.claimed import INDEX, Captions, CaptionSource
from dsd.curate.config import CurateConfig
from dsd.curate.ending import ask_again, finish, finished, say, show
from dsd.curate.executors.local import Local
from dsd.curate.executors.protocol import Executor, told_of_interrupts
from dsd.curate.funnel import Funnel
from dsd.curate.models import JUDGE, Models
from dsd.curate.prompts import repeated
from dsd.curate.units import FOLDER, UnitLedger, UnitRecord, Units
from dsd.curate.work import Curation
from dsd.data.rows import Kind
from dsd.data.store import MANIFEST
from dsd.errors import UserError
from dsd.files import DamagedFile
from dsd.locks import held
from dsd.log import progress
from dsd.places import Place, Where

CAPTIONS = f"{FOLDER}/{INDEX}"
_DIGEST, _JUDGE = "captions", "judge"  # sources of the claim


def curate(config: CurateConfig, out: Where, executor: Executor | None = None, models: Models | None = None) -> Funnel:
    """Makes a dataset, or finishes one.

    Args:
        config: settings; the same for every start.
        out: folder of the dataset, local or at an address that fsspec knows.
        executor: where units are worked on; by default in this process.
        models: who works on them; by default those that the config names.

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
            funnel = _curate(models or Models(config), out, executor or Local())
    show(funnel, out)
    return funnel


def _curate(models: Models, out: Place, executor: Executor) -> Funnel:
    config = models.config
    begun = _begun(config, out)
    if begun:
        out.sweep()
    drawn = Place.of(config.sheets_from or out)
    source = _captions(config, drawn, begun, out)
    if config.sheets_from:
        out.require_apart(drawn, "the folder of the sheets")
        _check_drawn(config, drawn)
    units = Units(captions=source if isinstance(source, Captions) else Captions.of(()), config=config)
    ledger = UnitLedger(out, config.pictures)
    work = Curation(units=units, models=models, ledger=ledger, drawn=drawn)
    work = _resumed(work, executor, out) if begun else _claimed(work, source, executor, out)
    (out / MANIFEST).remove()  # of a dataset that is no longer whole
    return finish(_run(executor, work), work.units.captions.skipped, config, out)


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


def _check_drawn(config: CurateConfig, drawn: Place) -> None:
    """Refuses sheets that other settings would have drawn, or that are not all drawn yet."""
    before = runs.config_of(drawn, CurateConfig)
    runs.begun(drawn, config.judged_as(before), "sheets")
    units, ledger = len(Units(captions=Captions.find(drawn / FOLDER), config=config)), UnitLedger(drawn)
    missing = sum(ledger.find_sheets(number) is None for number in range(units))
    if missing:
        raise UserError(f'"{drawn}" lacks the sheets of {missing} of {units} units; run its own command again first')


def _captions(config: CurateConfig, drawn: Place, begun: bool, out: Place) -> CaptionSource:
    """Where the captions of all units come from; a later start goes on with those that the first one took."""
    if config.sheets_from and not (drawn / runs.CONFIG).exists():
        raise UserError(f'there are no sheets in "{drawn}"; give a folder that `dsd curate` wrote as sheets_from')
    if begun:
        return _taken(out)
    if config.sheets_from:
        return Captions.find(drawn / FOLDER)
    wanted = config.units * config.unit_size
    if config.subjects:
        return Captions.of(repeated(config.subjects, wanted))
    file = CaptionFile(config.captions, wanted)
    file.require()
    return file


def _taken(out: Place) -> Captions:
    """The captions that the first start took."""
    captions, sources = Captions.find(out / FOLDER), runs.sources_of(out)
    if _JUDGE not in sources:
        raise DamagedFile(
            f'"{out / runs.SOURCES}" does not say what the dataset is made of; bring it back, or give another folder'
        )
    captions.verify()
    if sources.get(_DIGEST, captions.digest) != captions.digest:
        raise DamagedFile(f'"{out / CAPTIONS}" is not what was written; bring it back, or curate in another folder')
    return captions


def _claimed(work: Curation, source: CaptionSource, executor: Executor, out: Place) -> Curation:
    """The work on the captions that it takes, once everything that its config names has been found."""
    config, wanted = work.models.config, work.models.config.units * work.models.config.unit_size
    sources = work.models.sources(executor.sources(work, trying=True))
    captions = Captions.keep(source, out / FOLDER)
    if captions.count < wanted:
        say(
            f"warning: {config.captions} gives {captions.count:,} captions, not the {wanted:,} of "
            f"{config.units:,} units; the curation takes those"
        )
    runs.claim(out, config, sources | {_DIGEST: captions.digest}, "a dataset")
    return replace(work, units=Units(captions=captions, config=config))


def _resumed(work: Curation, executor: Executor, out: Place) -> Curation:
    """The work, once it is sure that what is left of it will be done as it was begun."""
    ask_again(work.ledger, len(work), draws=not work.models.config.sheets_from)
    if any(work.find(JUDGE, number) is None for number in range(len(work))):
        kept = {name: digest for name, digest in runs.sources_of(out).items() if name == _DIGEST}
        sources = work.models.sources(executor.sources(work, trying=False)) | kept
        runs.claim(out, work.models.config, sources, "a dataset")
    return work


def _run(executor: Executor, work: Curation) -> list[UnitRecord]:
    """Has the work done, and shows how far it is, in captions."""
    sizes = [work.units.size(number) for number in range(len(work))]
    left = [size if work.find(JUDGE, number) is None else 0 for number, size in enumerate(sizes)]
    records = []
    bars = progress(description="drawing and judging", total=sum(sizes), completed=sum(sizes) - sum(left))
    with bars as bar, told_of_interrupts(executor.run(work)) as done:
        for record, size in zip(done, left, strict=True):
            records.append(record)
            bar.advance(size)
    return records
