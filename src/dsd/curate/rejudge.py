"""Another `min_score` for a finished dataset, without asking again: its rows hold every verdict.

The new dataset is, byte for byte, what a curation with that `min_score` would have made of the same verdicts. Pictures
pass as the bytes that they are.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from dsd import runs
from dsd.config import from_json, to_json
from dsd.curate.config import CurateConfig
from dsd.curate.diversity import diversity_of
from dsd.curate.ending import finished, show
from dsd.curate.films import films
from dsd.curate.funnel import Funnel
from dsd.curate.pairs import BELOW, NEAR_COPY, NO_DESCRIPTION, NO_SCORE, refused
from dsd.curate.panels import Described, cut
from dsd.curate.tasks.registry import task_of
from dsd.data.records import Panel, PanelFilm, other_order, panel_id
from dsd.data.rows import Kind, to_pair, to_sheet
from dsd.data.store import MANIFEST, DatasetReader, DatasetWriter, Shard, read_columns, read_shard, shard_path
from dsd.errors import UserError
from dsd.locks import held
from dsd.log import progress
from dsd.places import Place, Where

Row = dict[str, Any]
_OF_REJECTS = ("outcome", "reason", "words")


@dataclass(frozen=True, kw_only=True)
class _Unit:
    """The rows of a unit as they are to be."""

    pairs: list[Row]
    rejects: list[Row]
    films: list[PanelFilm]


def rescore(folder: Where, min_score: float, out: Where) -> Funnel:
    """Makes the dataset that a curation with another `min_score` would have made of the same verdicts.

    Args:
        folder: of a finished dataset, local or at an address that fsspec knows.
        min_score: what was judged the same is kept from this score on, in [0, 1]; lower than before is possible too.
        out: folder of the new dataset.

    Returns:
        What became of the captions.

    Raises:
        UserError: no finished dataset of a curation, one without scores or with none that is high enough, or a place
            that is taken.
    """
    reader, out = DatasetReader(folder), Place.of(out)
    config = _config(reader, min_score)
    out.require_apart(reader.folder, "the dataset's folder")
    _require_scores(reader, min_score)
    begun = runs.begun(out, config, "a dataset")
    if not begun and any((out / name).exists() for name in (MANIFEST, *get_args(Kind))):
        raise UserError(f'"{out}" holds a dataset that was made elsewhere; give another folder')
    funnel = finished(out) if begun else None
    if funnel is None:
        with held(out, "a dataset"):
            out.sweep()
            runs.claim(out, config, reader.manifest.recipe["revisions"], "a dataset")
            funnel = _write(reader, config, out)
    show(funnel, out)
    return funnel


def _write(reader: DatasetReader, config: CurateConfig, out: Place) -> Funnel:
    """Writes all units, and then what makes them a dataset."""
    shards: list[Shard] = []
    outcomes: Counter[tuple[str, str]] = Counter()
    writer = DatasetWriter(out, config.pictures)
    for shard in progress(reader.manifest.of("grids"), description="rescoring"):
        number = int(Path(shard.path).stem)
        unit = _rescored(reader, number, config)
        rows: dict[Kind, Sequence[Any]] = {"pairs": unit.pairs, "films": unit.films, "rejects": unit.rejects}
        shards += [writer.write_shard(kind, number, records) for kind, records in rows.items() if records]
        (out / shard.path).write_atomic((reader.folder / shard.path).read_bytes())
        shards.append(shard)
        outcomes.update((row["outcome"], row["reason"]) for row in unit.rejects)
    funnel = replace(_funnel(reader, shards, outcomes, config), diversity=diversity_of(out, shards))
    if funnel.films == 0:
        raise UserError(
            f"no film of {config.frames} panels is left from a score of {config.min_score:g} on; give a lower one"
        )
    recipe: dict[str, Any] = json.loads(to_json(config.claimed()))
    writer.finish(shards, recipe | {"revisions": runs.sources_of(out)}, funnel.to_dict())
    return funnel


def _config(reader: DatasetReader, min_score: float) -> CurateConfig:
    """The settings that the new dataset would have been curated with."""
    recipe = dict(reader.manifest.recipe)
    try:
        recipe.pop("revisions")
        before = from_json(CurateConfig, json.dumps(recipe))
    except (KeyError, UserError) as error:
        raise UserError(
            f'"{reader.folder}" is not as `dsd curate` wrote it ({error}); give the dataset that it was made from'
        ) from error
    return replace(before, min_score=min_score, sheets_from=before.sheets_from or str(reader.folder))


def _require_scores(reader: DatasetReader, min_score: float) -> None:
    """Refuses a score that nothing can be held against, or that nothing has."""
    scores = list(_scores(reader))
    known = [score for score in scores if score is not None]
    if not scores:
        raise UserError(f'nothing in "{reader.folder}" was judged the same; no score keeps any of it')
    if min_score and not known:
        raise UserError(
            f'the verdicts in "{reader.folder}" have no scores; judge its sheets anew (--curate.sheets-from) with '
            "--curate.votes 5 or a judge that says how sure it is"
        )
    if min_score and max(known) < min_score:
        raise UserError(
            f'no pair of "{reader.folder}" has a score of {min_score:g}; the highest is {max(known):g}, give no more'
        )


def _scores(reader: DatasetReader) -> Iterator[float | None]:
    """Of all that was judged the same."""
    scored = ["score"] if reader.manifest.schema_version > 1 else []
    for shard in (*reader.manifest.of("pairs"), *reader.manifest.of("rejects")):
        named = "id" if shard.kind == "pairs" else "reason"
        for row in read_columns(reader.folder / shard.path, [named, *scored]):
            if shard.kind == "pairs" or row["reason"] in (BELOW, NO_SCORE):
                yield row.get("score")


def _rescored(reader: DatasetReader, number: int, config: CurateConfig) -> _Unit:
    """A unit's rows, in the order in which a curation writes them."""
    sheets, pairs, rejects = (_rows(reader, kind, number) for kind in ("grids", "pairs", "rejects"))
    _require_both_orders(pairs, reader.folder)
    judged = pairs[::2] + [row for row in rejects if not _unjudged(row)]
    place = _places(sheets, reader.folder)
    kept: list[Row] = []
    refusals = [row for row in rejects if _unjudged(row)]
    for row in sorted(judged, key=lambda row: place(row)):
        if row.get("reason", BELOW) not in (BELOW, NO_SCORE):  # of no same individual, or without a verdict
            refusals.append(row)
            continue
        pair = {name: value for name, value in row.items() if name not in _OF_REJECTS}
        if refusal := refused(pair.get("score"), config.min_score):
            refusals.append({"outcome": refusal.outcome, "reason": refusal.reason, "words": "", **pair})
        else:
            kept += [pair, pair | other_order(pair)]
    return _Unit(pairs=kept, rejects=refusals, films=_films(sheets, kept, config) if config.frames > 2 else [])


def _rows(reader: DatasetReader, kind: Kind, number: int) -> list[Row]:
    path = shard_path(reader.folder, kind, number)
    named = any(reader.folder / shard.path == path for shard in reader.manifest.of(kind))
    return list(read_shard(path, dict)) if named else []


def _unjudged(reject: Row) -> bool:
    return reject["reason"] == NEAR_COPY or reject["reason"].startswith(NO_DESCRIPTION)


def _require_both_orders(pairs: Sequence[Row], folder: Place) -> None:
    if len(pairs) % 2 or any(
        other_order(one)["id"] != two["id"] for one, two in zip(pairs[::2], pairs[1::2], strict=True)
    ):
        raise UserError(
            f'"{folder}" holds examples that are no pairs in both orders; curate it with the other min_score'
        )


def _places(sheets: Sequence[Row], folder: Place) -> Any:
    """Where a candidate stands among all of its unit."""
    ids = [[panel_id(sheet["id"], n) for n in range(len(sheet["panel_subjects"]))] for sheet in sheets]
    order = {two: at for at, two in enumerate(two for panels in ids for two in combinations(panels, 2))}

    def place(row: Mapping[str, Any]) -> int:
        two = row["reference_panel"], row["target_panel"]
        if two not in order:
            raise UserError(f'"{folder}" holds a candidate of no sheet of it ({row["id"]}); copy the dataset again')
        return order[two]

    return place


def _films(sheets: Sequence[Row], pairs: Sequence[Row], config: CurateConfig) -> list[PanelFilm]:
    """Made anew of the sheets, since which panels are kept with one another is another question now."""
    described: list[list[Described]] = []
    for sheet in map(to_sheet, sheets):
        panels = cut(sheet.grid, config.panel_size, task_of(config.task).layout) if sheet.grid else []
        if isinstance(panels, list) and sheet.grid:
            told = zip(panels, sheet.descriptions, strict=True)
            described.append(
                [
                    Described(Panel(grid=sheet.grid.id, number=number, image=image, description=words))
                    for number, (image, words) in enumerate(told)
                ]
            )
    return list(films(described, [to_pair(row) for row in pairs], config.references, config.targets))


def _funnel(
    reader: DatasetReader, shards: Sequence[Shard], outcomes: Mapping[tuple[str, str], int], config: CurateConfig
) -> Funnel:
    counts = {kind: sum(shard.rows for shard in shards if shard.kind == kind) for kind in ("pairs", "films")}
    by = {
        outcome: {reason: count for (of, reason), count in sorted(outcomes.items()) if of == outcome}
        for outcome in ("rejected", "failed")
    }
    funnel = replace(
        Funnel.from_dict(reader.funnel()),
        kept=counts["pairs"] // 2,
        pairs=counts["pairs"],
        films=counts["films"] if config.frames > 2 else None,
        **by,
    )
    funnel.reconcile(task_of(config.task).candidates)
    return funnel
