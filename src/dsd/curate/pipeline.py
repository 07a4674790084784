"""Phases 1 and 2 on one machine: captions to a dataset of judged pairs, unit by unit.

Run it again to go on: finished units are skipped, the others give the bytes they would have given.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from dsd import runs
from dsd.chat.protocol import ChatModel
from dsd.chat.registry import load_chat
from dsd.config import to_json
from dsd.curate.captions import Captions, read_captions
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.grids import Teacher
from dsd.curate.prompts import repeated
from dsd.curate.tasks.registry import task_of
from dsd.curate.templates import Templates
from dsd.curate.units import FOLDER, Unit, UnitLedger, UnitRecord, split_into_units
from dsd.curate.work import Models, do_unit
from dsd.data.records import Caption
from dsd.data.store import FUNNEL, MANIFEST, DatasetWriter
from dsd.errors import UserError
from dsd.files import make_folder, write_atomic
from dsd.log import console, progress, quiet_libraries

CAPTIONS = f"{FOLDER}/captions.json"


def curate(config: CurateConfig, out: Path) -> Funnel:
    """Makes a dataset, or finishes one.

    Args:
        config: settings; the same for every start.
        out: folder of the dataset.

    Returns:
        What became of the captions.

    Raises:
        UserError: the folder holds a dataset with other settings or of other models, or something in the config
            cannot be used; finished units stay.
    """
    begun = _begun(config, make_folder(out))
    if (out / MANIFEST).exists():
        funnel = Funnel.from_dict(json.loads((out / FUNNEL).read_text(encoding="utf-8")))
        _show(funnel, out)
        return funnel
    _sweep(out)
    captions = _captions(config, out, begun)
    units = split_into_units(captions.taken, config)
    ledger = UnitLedger(out)
    found = [ledger.find(unit.number) if begun else None for unit in units]
    records = [record for record in found if record is not None]
    waiting = [unit for unit, record in zip(units, found, strict=True) if record is None]
    if waiting:
        models = _load(config)
        _claim(config, captions, _sources(models), out)
        records += _work(waiting, len(captions.taken), config, models, ledger)
    funnel = _finish(sorted(records, key=lambda record: record.number), captions, config, out)
    _show(funnel, out)
    return funnel


def _begun(config: CurateConfig, out: Path) -> bool:
    """Whether this dataset was begun in the folder; refuses one with other settings."""
    begun = runs.begun(out, config, "a dataset")
    if not begun and (out / MANIFEST).exists():
        raise UserError(f'"{out}" holds a dataset that was made elsewhere; give another folder')
    return begun


def _captions(config: CurateConfig, out: Path, begun: bool) -> Captions:
    """The captions of all units; a later start goes on with those that the first one took."""
    path = out / CAPTIONS
    if begun and path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
        return Captions(taken=tuple(Caption(text=text) for text in content["taken"]), skipped=content["skipped"])
    wanted = config.units * config.unit_size
    if config.subjects:
        return Captions(taken=repeated(config.subjects, wanted), skipped={})
    captions = read_captions(config.captions, wanted)
    if len(captions.taken) < wanted:
        _say(
            f"warning: {config.captions} gives {len(captions.taken):,} captions, not the {wanted:,} of "
            f"{config.units:,} units; the curation takes those"
        )
    return captions


def _claim(config: CurateConfig, captions: Captions, sources: dict[str, str], out: Path) -> None:
    """Takes the folder, once everything that the config names has been found; or checks that nothing changed since."""
    taken = {"taken": [caption.text for caption in captions.taken], "skipped": captions.skipped}
    write_atomic(out / CAPTIONS, json.dumps(taken, indent=0, ensure_ascii=False) + "\n")
    runs.claim(out, config, sources, "a dataset")


def _work(
    units: Sequence[Unit], total: int, config: CurateConfig, models: Models, ledger: UnitLedger
) -> list[UnitRecord]:
    records = []
    completed = total - sum(len(unit.captions) for unit in units)
    with progress(description="curating captions", total=total, completed=completed) as bar:
        for unit in units:
            rows = do_unit(unit, config, models, lambda stage: bar.advance(0, note=stage))
            records.append(ledger.commit(unit.number, rows))
            bar.advance(len(unit.captions))
    return records


def _load(config: CurateConfig) -> Models:
    quiet_libraries()
    templates = Templates.load(config.templates, config.task)
    judge: ChatModel = load_chat(config.judge, batch_size=config.chat_batch)
    same = config.judge == config.chat or config.subjects  # then nobody writes
    chat = judge if same else load_chat(config.chat, batch_size=config.chat_batch)
    return Models(task=task_of(config.task), chat=chat, judge=judge, teacher=Teacher(config), templates=templates)


def _sources(models: Models) -> dict[str, str]:
    """What else the content depends on: the models behind the names, and the prompts."""
    labels = {f"templates/{kind}": template.label for kind, template in models.templates.items()}
    return {
        "chat": models.chat.revision,
        "judge": models.judge.revision,
        "teacher": models.teacher.model.revision,
        **labels,
    }


def _finish(records: Sequence[UnitRecord], captions: Captions, config: CurateConfig, out: Path) -> Funnel:
    funnel = sum((record.funnel for record in records), Funnel(captions_skipped=captions.skipped))
    shards = [shard for record in records for shard in record.shards]
    funnel.reconcile(task_of(config.task).candidates)
    _reconcile_rows(funnel, out, [shard.path for shard in shards])
    recipe: dict[str, Any] = json.loads(to_json(config))
    recipe["revisions"] = runs.sources_of(out)
    DatasetWriter(out).finish(shards, recipe, funnel.to_dict())
    return funnel


def _reconcile_rows(funnel: Funnel, out: Path, shards: Sequence[str]) -> None:
    """Proves that the rows on disk are those of the funnel, and that no pair is there twice.

    Raises:
        RuntimeError: they are not.
    """
    ids: list[str] = []
    outcomes: Counter[tuple[str, str]] = Counter()
    grids = 0
    for shard in shards:
        if shard.startswith("rejects"):
            rows = pq.read_table(out / shard, columns=["id", "outcome", "reason"]).to_pylist()
            outcomes.update((row["outcome"], row["reason"]) for row in rows)
            ids += [row["id"] for row in rows]
        elif shard.startswith("pairs"):
            ids += pq.read_table(out / shard, columns=["id"]).column("id").to_pylist()
        else:
            grids += pq.read_metadata(out / shard).num_rows
    expected = {("rejected", reason): count for reason, count in funnel.rejected.items()}
    expected |= {("failed", reason): count for reason, count in funnel.failed.items()}
    if dict(outcomes) != expected or len(ids) - outcomes.total() != funnel.pairs or grids != funnel.captions:
        raise RuntimeError(f'the rows in "{out}" are not those of the funnel: {dict(outcomes)} against {expected}')
    if len(set(ids)) != len(ids):
        raise RuntimeError(f'"{out}" holds {len(ids) - len(set(ids))} pairs twice')


def _sweep(out: Path) -> None:
    """Removes what a killed run left under temporary names."""
    for leftover in out.rglob(".*.tmp"):
        leftover.unlink()


def _show(funnel: Funnel, out: Path) -> None:
    for line in (*funnel.lines(), f"in {out}"):
        _say(line)


def _say(line: str) -> None:
    console.print(line, soft_wrap=True, markup=False)
