"""Is a dataset what it says it is? Files, schema, sums and rows, each looked at once, whatever else is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dsd.audit.examine import Examined
from dsd.audit.findings import Findings
from dsd.audit.folder import Folder, open_folder, units_of
from dsd.audit.rows import rows_of, schema_of
from dsd.curate.funnel import Funnel
from dsd.curate.tasks.registry import DEFAULT, task_of
from dsd.data.rows import SINCE_2, Kind, arrow_schema
from dsd.data.store import FUNNEL, MANIFEST, Shard
from dsd.errors import UserError
from dsd.files import sha256_of
from dsd.log import progress

CARD = "README.md"


def check_dataset(path: Path, *, pictures: bool = True) -> tuple[Findings, list[str]]:
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
    readable = [shard for shard in folder.shards if _file(folder, shard, findings)]
    drawn = [Shard(path=name, kind="grids", rows=-1, sha256="") for name in folder.drawn]
    readable = [shard for shard in drawn if _file(folder, shard, findings)] + readable
    _strangers(folder, findings)
    examined = Examined(findings, pictures=pictures)
    unjudged = Examined(findings, pictures=pictures)  # whose rows no funnel counts yet
    order: tuple[Kind, ...] = ("grids", "pairs", "rejects", "films")  # so that panels are known before their pairs
    shards = [shard for kind in order for shard in readable if shard.kind == kind]
    for shard in progress(shards, description="checking files"):
        try:
            who = unjudged if shard.path in folder.drawn else examined
            for number, row in enumerate(rows_of(path / shard.path), start=1):
                who.row(shard.kind, row, f"{shard.path}, row {number}")
        except UserError as error:
            findings.wrong(shard.path, str(error))
    examined.finish()
    unjudged.finish()
    whole = len(readable) == len(folder.shards) + len(folder.drawn)
    _sums(folder, examined.sums.funnel() if whole else None, findings)
    return findings, _summary(folder, examined, findings)


def _file(folder: Folder, shard: Shard, findings: Findings) -> bool:
    """Whether a file of rows is there and can be read; also compares it with its record."""
    path = folder.path / shard.path
    if not path.resolve().is_relative_to(folder.path.resolve()):
        findings.wrong(shard.path, "the file lies outside of the dataset's folder")
        return False
    if not path.is_file():
        findings.wrong(shard.path, "the file is missing")
        return False
    if shard.sha256 and sha256_of(path) != shard.sha256:
        findings.wrong(shard.path, "the file's bytes are not those that were recorded (SHA-256)")
    try:
        schema, rows = schema_of(path), pq.read_metadata(path).num_rows
    except UserError as error:
        findings.wrong(shard.path, str(error))
        return False
    if rows != shard.rows and shard.rows >= 0:
        findings.wrong(shard.path, f"the file has {rows:,} rows, not the {shard.rows:,} that were recorded")
    return _schema(schema, shard, folder.schema_version, findings)


def _schema(schema: pa.Schema, shard: Shard, version: int, findings: Findings) -> bool:
    wanted, fine = arrow_schema(shard.kind), True
    for field in wanted:
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
    for kind in ("pairs", "rejects", "grids", "films"):
        for file in sorted((folder.path / kind).glob("*")):
            name = f"{kind}/{file.name}"
            if file.name.startswith("."):
                findings.note(name, "a process that was killed left this file behind")
            elif name not in known and folder.finished:
                findings.wrong(name, "the manifest does not name this file, but `datasets` reads it")
            elif name not in known:
                findings.note(name, "no finished unit names this file; it is written anew when the curation goes on")
    if folder.finished and not (folder.path / CARD).is_file():
        findings.note(CARD, "the card is missing, by which `datasets` tells pairs from rejects")


def _sums(folder: Folder, found: Funnel | None, findings: Findings) -> None:
    """Compares the funnel with itself and with the rows."""
    funnel, task = folder.funnel, folder.recipe.get("task", DEFAULT)
    if funnel is None:
        return
    try:
        funnel.reconcile(task_of(task).candidates)
    except (RuntimeError, TypeError) as error:
        findings.wrong(FUNNEL, str(error))
    except UserError as error:
        findings.note(FUNNEL, f"how many candidates a sheet has cannot be told: {error}")
    if found is None:
        findings.note(FUNNEL, "rows are not compared with the funnel, since files are missing or damaged")
        return
    said, there = funnel.counts(), found.counts()
    for stage in dict.fromkeys((*said, *there)):
        if stage != "candidates" and not stage.startswith("left out: ") and said.get(stage, 0) != there.get(stage, 0):
            findings.wrong(
                FUNNEL, f'{said.get(stage, 0):,} are said of "{stage}", but rows show {there.get(stage, 0):,}'
            )
    if said["candidates"] != there["candidates"] + sum((funnel.left_out or {}).values()):
        findings.wrong(FUNNEL, f"{said['candidates']:,} candidates are said, but rows show {there['candidates']:,}")


def _summary(folder: Folder, examined: Examined, findings: Findings) -> list[str]:
    counts: Sequence[str] = [f"{count:,} {kind}" for kind, count in examined.sums.rows.items()]
    decoded = f", {examined.decoded:,} different pictures decoded" if examined.pictures else ", pictures not decoded"
    state = "finished"
    if not folder.finished:
        judged = len({shard.path.rpartition("/")[2] for shard in folder.shards})
        units = units_of(folder.recipe)
        state = (
            f"unfinished: {judged} {'' if units is None else f'of at most {units} '}units are judged, "
            f"{len(folder.drawn)} more are drawn; run its `dsd curate` again to finish it, training waits for that"
        )
        findings.note(MANIFEST, state)
    return [f'"{folder.path}" is {state}', f"read {', '.join(counts) or 'no rows'}{decoded}"]
