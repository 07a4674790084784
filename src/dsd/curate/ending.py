"""The end of a curation: the proof that nothing was lost, and the dataset; or why there is none."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dsd import runs
from dsd.config import to_json
from dsd.curate.config import CurateConfig
from dsd.curate.diversity import diversity_of
from dsd.curate.funnel import Funnel
from dsd.curate.tasks.registry import task_of
from dsd.curate.units import UnitLedger, UnitRecord
from dsd.data.card import CARD
from dsd.data.rows import Kind
from dsd.data.store import (
    FUNNEL,
    DatasetReader,
    DatasetWriter,
    Shard,
    damaged_shards,
    is_finished,
    read_columns,
)
from dsd.errors import UserError
from dsd.files import DamagedFile, read_json
from dsd.log import console
from dsd.places import Place


class NoPairs(UserError):
    """A curation ended, and there is nothing to train on.

    Attributes:
        funnel: what became of the captions.
    """

    def __init__(self, funnel: Funnel, sentence: str) -> None:
        super().__init__(sentence)
        self.funnel = funnel


def finished(out: Place) -> Funnel | None:
    """What became of the captions of a finished dataset; None where it is not finished, or no longer whole.

    Raises:
        UserError: it is of another schema version, or cannot be read.
    """
    if not is_finished(out):
        return None
    try:
        reader = DatasetReader(out)
        reader.verify()
        if not reader.is_as_written(FUNNEL):
            raise DamagedFile(f'"{out / FUNNEL}" is missing or not what was written')
        if not (out / CARD).is_file():  # one that was filled in stays
            raise DamagedFile(f'"{out / CARD}" is missing')
        return read_json(out / FUNNEL, Funnel.from_dict, "it is made anew")
    except DamagedFile as error:
        say(f"{error}; what is damaged is now made anew")
        return None


def finish(records: Sequence[UnitRecord], skipped: Mapping[str, int], config: CurateConfig, out: Place) -> Funnel:
    """Proves that nothing was lost, and makes a dataset of all units.

    Args:
        records: of all units.
        skipped: rows of the caption file that were not taken, by reason.
        config: settings.
        out: folder of the dataset.

    Returns:
        What became of the captions.

    Raises:
        NoPairs: there is nothing to train on.
        UserError: a shard was changed since it was written.
        RuntimeError: something was lost or counted twice.
    """
    funnel = sum((record.funnel for record in records), Funnel(captions_skipped=skipped))
    shards = [shard for record in records for shard in record.shards]
    if damaged := damaged_shards(out, shards):
        raise UserError(
            f'"{out / damaged[0].path}" was changed or removed while the curation ran; run the same command again, '
            "which makes it anew"
        )
    funnel.reconcile(task_of(config.task).candidates)
    _reconcile_rows(funnel, out, shards)
    funnel = replace(funnel, diversity=diversity_of(out, shards))
    recipe: dict[str, Any] = json.loads(to_json(config.claimed()))
    recipe["revisions"] = runs.sources_of(out)
    writer = DatasetWriter(out)
    if not funnel.examples:
        writer.write_funnel(funnel.to_dict())
        raise NoPairs(funnel, _why_none(funnel, config, out))
    writer.finish(shards, recipe, funnel.to_dict())
    return funnel


def ask_again(ledger: UnitLedger, units: int, *, draws: bool) -> None:
    """Has units done again in which something failed, where all are done and gave nothing to train on.

    The judge is asked again about the sheets of units for which its replies could not be used; where it was not asked
    in vain, but the writer was, the sheets are drawn again.

    Args:
        ledger: of the dataset.
        units: how many there are.
        draws: whether sheets are drawn, and not taken from another curation.
    """
    records = [record for record in map(ledger.find, range(units)) if record is not None]
    if len(records) < units or any(record.funnel.examples for record in records):
        return
    for record in records:
        if record.funnel.failed or (draws and record.funnel.prompts_failed):
            ledger.forget(record.number, sheets=not record.funnel.failed)


def show(funnel: Funnel, out: Place) -> None:
    """Tells what became of the captions."""
    for line in (*funnel.lines(), f"in {out}"):
        say(line)


def say(line: str) -> None:
    """Tells a line as it is."""
    console.print(line)


def _why_none(funnel: Funnel, config: CurateConfig, out: Place) -> str:
    parts = [
        *_counted("captions without a grid prompt", funnel.prompts_failed),
        *_counted("sheets refused", funnel.sheets_refused),
        *_counted("candidates rejected", funnel.rejected),
        *_counted("candidates failed", funnel.failed),
        *([f"{funnel.pairs:,} pairs, but no film"] if funnel.pairs else []),
    ]
    way = "give other captions or another teacher"
    if funnel.candidates:
        way += f", or judge the sheets in another way with --curate.sheets-from {config.sheets_from or out} --out OTHER"
    if funnel.prompts_failed or funnel.failed:
        way = f"mend what failed and run the same command again, which asks again for it, or {way}"
    return f'there is nothing to train on in "{out}", of {funnel.captions:,} captions: {", ".join(parts)}; {way}'


def _counted(what: str, counts: Mapping[str, int]) -> list[str]:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in counts.items())
    return [f"{sum(counts.values()):,} {what} ({reasons})"] if counts else []


def _reconcile_rows(funnel: Funnel, out: Place, shards: Sequence[Shard]) -> None:
    """Proves that the rows on disk are those of the funnel, and that none to train on is there twice.

    Raises:
        RuntimeError: they are not.
    """
    ids: list[str] = []
    outcomes: Counter[tuple[str, str]] = Counter()
    counts: Counter[Kind] = Counter()
    for shard in shards:
        rows = read_columns(out / shard.path, ["id", "outcome", "reason"] if shard.kind == "rejects" else ["id"])
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
