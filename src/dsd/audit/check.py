"""Is a dataset what it says it is? Files, schema, sums and rows, each looked at once, whatever else is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import get_args

import pyarrow as pa

from dsd.audit.beside import look_beside
from dsd.audit.examine import Examined
from dsd.audit.findings import Findings, Row
from dsd.audit.folder import Folder, open_folder, units_of
from dsd.audit.rows import rows_of
from dsd.curate.diversity import diversity_of
from dsd.curate.funnel import Funnel
from dsd.curate.tasks.registry import DEFAULT, task_of
from dsd.curate.tasks.task import Task
from dsd.data.card import CARD
from dsd.data.rows import SINCE_2, Kind, arrow_schema
from dsd.data.store import FUNNEL, MANIFEST, Shard, open_shard
from dsd.errors import UserError
from dsd.log import progress
from dsd.places import Where


def check_dataset(path: Where, *, pictures: bool = True) -> tuple[Findings, list[str]]:
    """Audits what `dsd curate` or `dsd data` wrote.

    Args:
        path: of the dataset, which may be unfinished.
        pictures: whether every picture is decoded.

    Returns:
        What was found, and sentences on what was looked at.

    Raises:
        UserError: no dataset, or a manifest that cannot be read.
    """
    folder, findings = open_folder(path), Findings()
    for name, sentence in folder.trouble.items():
        findings.wrong(name, sentence)
    task = _task(folder, findings)
    drawn = [Shard(path=name, kind="grids", rows=-1, sha256="") for name in folder.drawn]
    readable = [shard for shard in (*drawn, *folder.shards) if _file(folder, shard, findings)]
    _strangers(folder, findings)
    look_beside(folder, findings)
    examined = Examined(findings, pictures=pictures, panels=None if task is None else task.layout.panels)
    order: tuple[Kind, ...] = ("grids", "pairs", "rejects", "films")  # so that panels are known before their pairs
    shards = [shard for kind in order for shard in readable if shard.kind == kind]
    whole = len(readable) == len(folder.shards) + len(folder.drawn)
    for shard in progress(shards, description="checking files"):
        try:
            for number, row in enumerate(rows_of(folder.path / shard.path), start=1):
                examined.row(shard.kind, row, Row(number, shard.path), judged=shard.path not in folder.drawn)
        except UserError as error:
            findings.wrong(shard.path, str(error))
            whole = False
    examined.finish()
    _sums(folder, examined.sums.funnel() if whole else None, task, findings)
    if whole and folder.funnel is not None and folder.funnel.diversity is not None:
        _diversity(folder, folder.funnel, findings)
    return findings, _summary(folder, examined, findings)


def _task(folder: Folder, findings: Findings) -> Task | None:
    """What its sheets show; None where that is not known here."""
    try:
        return task_of(str(folder.recipe.get("task", DEFAULT)))
    except UserError as error:
        findings.note(MANIFEST, f"how many panels and candidates a sheet has cannot be told: {error}")
        return None


def _file(folder: Folder, shard: Shard, findings: Findings) -> bool:
    """Whether a file of rows is there and can be read; also compares it with its record."""
    inside = PurePosixPath(shard.path)
    if inside.is_absolute() or ".." in inside.parts or "://" in shard.path:
        findings.wrong(shard.path, "the file lies outside of the dataset's folder")
        return False
    path = folder.path / shard.path
    try:
        digest = path.sha256()
        if digest not in folder.drawn.get(shard.path, [shard.sha256]):
            findings.wrong(shard.path, "the file's bytes are not those that were recorded (SHA-256)")
        with open_shard(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except FileNotFoundError:
        findings.wrong(shard.path, "the file is missing")
        return False
    except UserError as error:
        findings.wrong(shard.path, str(error))
        return False
    if rows != shard.rows and shard.rows >= 0:
        findings.wrong(shard.path, f"the file has {rows:,} rows, not the {shard.rows:,} that were recorded")
    return _schema(schema, shard, folder.schema_version, findings)


def _schema(schema: pa.Schema, shard: Shard, version: int, findings: Findings) -> bool:
    """Whether rows can be read by their columns; some of them may be wrong in themselves."""
    fine = True
    for field in arrow_schema(shard.kind):
        if field.name not in schema.names and version == 1 and field.name in SINCE_2:
            continue
        if field.name not in schema.names:
            findings.wrong(shard.path, f'the column "{field.name}" is missing')
            fine = False
        elif not schema.field(field.name).type.equals(field.type):
            found = schema.field(field.name).type
            findings.wrong(shard.path, f'the column "{field.name}" holds {found}, but must hold {field.type}')
            fine = False
    if b"huggingface" not in (schema.metadata or {}):
        findings.note(shard.path, "the file does not say which columns are pictures, so viewers show bytes")
    return fine


def _strangers(folder: Folder, findings: Findings) -> None:
    """Files that no record names: `datasets`, which goes by the folders' names, reads them too."""
    known = {shard.path for shard in folder.shards} | set(folder.drawn)
    for kind in get_args(Kind):
        for file in (folder.path / kind).glob("*"):
            name = f"{kind}/{file.name}"
            if file.name.startswith("."):
                findings.note(name, "a process that was killed left this file behind")
            elif name not in known and folder.finished:
                findings.wrong(name, f"the {MANIFEST} does not name this file, but `datasets` reads it")
            elif name not in known:
                findings.note(name, "no finished unit names this file; it is written anew when the curation goes on")
    if folder.finished and not (folder.path / CARD).is_file():
        findings.note(CARD, "the card is missing, by which `datasets` tells pairs from rejects")
    elif CARD in folder.changed:
        findings.note(
            CARD, "the card is not the one that was written; `datasets` tells pairs from rejects by its header"
        )


def _sums(folder: Folder, found: Funnel | None, task: Task | None, findings: Findings) -> None:
    """Compares the funnel with itself and with the rows."""
    funnel = folder.funnel
    if funnel is None:
        return
    if FUNNEL in folder.changed:
        findings.wrong(FUNNEL, "the sums are not those that were written (SHA-256)")
    try:
        if task is not None:
            funnel.reconcile(task.candidates)
    except RuntimeError as error:
        findings.wrong(FUNNEL, str(error))
    if found is None:
        findings.note(FUNNEL, "rows are not compared with the funnel, since files are missing or damaged")
        return
    said, there = _parts(funnel), _parts(found)
    for stage in dict.fromkeys((*said, *there)):
        if said.get(stage, 0) != there.get(stage, 0):
            findings.wrong(
                FUNNEL, f'{said.get(stage, 0):,} are said of "{stage}", but rows show {there.get(stage, 0):,}'
            )
    left_out = sum((funnel.left_out or {}).values())
    if funnel.candidates != found.candidates + left_out:
        findings.wrong(FUNNEL, f"{funnel.candidates:,} candidates are said, but rows show {found.candidates:,}")


def _parts(funnel: Funnel) -> dict[str, int]:
    """What rows show, by name."""
    named = {
        name: count
        for name, count in funnel.counts().items()
        if name != "candidates" and not name.startswith("left out: ")
    }
    named |= {f"no grid prompt: {reason}": count for reason, count in funnel.prompts_failed.items()}
    return named | {f"refused: {reason}": count for reason, count in funnel.sheets_refused.items()}


def _diversity(folder: Folder, funnel: Funnel, findings: Findings) -> None:
    try:
        found = diversity_of(folder.path, folder.shards)
    except (UserError, ValueError) as error:
        findings.note(FUNNEL, f"subjects and scenes cannot be counted ({error})")
        return
    for name, count in (funnel.diversity or {}).items():
        if found.get(name) != count:
            findings.wrong(FUNNEL, f'{count:,} are said of "{name}", but rows show {found.get(name, 0):,}')


def _summary(folder: Folder, examined: Examined, findings: Findings) -> list[str]:
    counts: Sequence[str] = [f"{count:,} {kind}" for kind, count in examined.sums.rows.items()]
    decoded = f", {examined.decoded:,} different pictures decoded" if examined.pictures else ", pictures not decoded"
    state = "finished"
    if not folder.finished:
        judged = len({PurePosixPath(shard.path).name for shard in folder.shards})
        units = units_of(folder.recipe)
        state = (
            f"unfinished: {judged} {'' if units is None else f'of at most {units} '}units are judged, "
            f"{len(folder.drawn)} more are drawn; run its `dsd curate` again to finish it, training waits for that"
        )
        findings.note(MANIFEST, state)
    return [f'"{folder.path}" is {state}', f"read {', '.join(counts) or 'no rows'}{decoded}"]
