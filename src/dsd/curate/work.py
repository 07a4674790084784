"""The two works of a curation: every unit's sheets are drawn, and every unit's sheets are judged.

Each stage of a unit takes it whole, so that models see large batches. Sheets are committed before anything is asked
about them: neither a kill nor another judge has them drawn again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from dsd.chat.protocol import ChatFailure
from dsd.curate.films import films
from dsd.curate.funnel import Funnel
from dsd.curate.models import Models
from dsd.curate.panels import Described, RefusedSheet, cut, describe
from dsd.curate.prompts import fixed_grid_prompts, write_grid_prompts
from dsd.curate.tasks.task import JudgeSettings
from dsd.curate.units import Unit, UnitLedger, UnitRecord, Units
from dsd.data.records import Caption, Grid, GridPrompt, Reject, Sheet
from dsd.data.rows import Kind, Row, to_sheet
from dsd.data.store import read_shard, shard_path

Cut = list[Image.Image] | RefusedSheet
_NO_PROMPT = "no grid prompt: "


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Captions to sheets, a `dsd.curate.executors.protocol.Work`; a unit's record is the file that holds them.

    Attributes:
        units: all of them.
        models: who writes and draws.
        ledger: of the dataset.
    """

    units: Units
    models: Models
    ledger: UnitLedger

    def __len__(self) -> int:
        return len(self.units)

    def find(self, number: int) -> Path | None:
        """The file of a unit's sheets, if they are drawn."""
        return self.ledger.find_sheets(number)

    def do(self, number: int) -> Path:
        """Has the sheets of a unit written and drawn."""
        return self.ledger.commit_sheets(number, draw(self.units[number], self.models))


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Sheets to pairs, a `dsd.curate.executors.protocol.Work`.

    Attributes:
        units: all of them.
        models: who describes and judges.
        ledger: of the dataset.
        drawn: folder of the dataset whose sheets are judged.
    """

    units: Units
    models: Models
    ledger: UnitLedger
    drawn: Path

    def __len__(self) -> int:
        return len(self.units)

    def find(self, number: int) -> UnitRecord | None:
        """The record of a unit that is judged."""
        return self.ledger.find(number)

    def do(self, number: int) -> UnitRecord:
        """Has the sheets of a unit described and judged."""
        sheets = list(read_shard(shard_path(self.drawn, "grids", number), to_sheet))
        return self.ledger.commit(number, *judge(sheets, self.units.seed(number), self.models))


def draw(unit: Unit, models: Models) -> list[Sheet]:
    """Captions to sheets, one for each, whatever became of it; none has descriptions yet.

    Args:
        unit: which captions, and the seed.
        models: who writes and draws.
    """
    config, templates = models.config, models.templates
    written: Sequence[GridPrompt | ChatFailure]
    if config.subjects:
        written = fixed_grid_prompts(unit.captions, config.themes, templates)
    else:
        written = write_grid_prompts(
            unit.captions, models.chat, templates, models.task.writer, unit.seed, config.themes
        )
    grids = models.teacher.draw([prompt for prompt in written if isinstance(prompt, GridPrompt)], unit.seed)
    drawn = {grid.prompt: grid for grid in grids}
    return [_drawn(caption, prompt, drawn) for caption, prompt in zip(unit.captions, written, strict=True)]


def judge(sheets: Sequence[Sheet], seed: int, models: Models) -> tuple[dict[Kind, Sequence[Row]], Funnel]:
    """Sheets to rows: they are cut, their panels described, and the task's candidates judged.

    Args:
        sheets: of one unit; what was said of their panels before is not looked at.
        seed: of the unit.
        models: who describes and judges.
    """
    config, task = models.config, models.task
    grids = [sheet.grid for sheet in sheets if sheet.grid is not None]
    cuts = [cut(grid, config.panel_size, task.layout) for grid in grids]
    described = _describe(grids, cuts, models, seed)
    settings = JudgeSettings(
        chain_of_thought=config.chain_of_thought,
        votes=config.votes,
        min_score=config.min_score,
        near_copy_threshold=config.near_copy_threshold,
    )
    outcomes = task.judge(described, models.judge, models.templates, settings, seed)
    rows = iter(zip(cuts, described, strict=True))
    sheets = [sheet if sheet.grid is None else _told(sheet, *next(rows)) for sheet in sheets]
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    kept = [outcome for outcome in outcomes if not isinstance(outcome, Reject)]
    pairs = [pair for outcome in kept for pair in outcome]
    made = list(films(described, pairs, config.references, config.targets)) if config.frames > 2 else None
    funnel = replace(
        _count(sheets, rejects),
        candidates=len(outcomes),
        kept=len(kept),
        pairs=len(pairs),
        films=None if made is None else len(made),
    )
    return {"pairs": pairs, "films": made or [], "rejects": rejects, "grids": sheets}, funnel


def _drawn(caption: Caption, prompt: GridPrompt | ChatFailure, drawn: dict[str, Grid]) -> Sheet:
    if isinstance(prompt, ChatFailure):
        return Sheet(caption=caption, prompt=None, grid=None, reason=f"{_NO_PROMPT}{prompt.reason}")
    return Sheet(caption=caption, prompt=prompt, grid=drawn[prompt.id])


def _describe(grids: Sequence[Grid], cuts: Sequence[Cut], models: Models, seed: int) -> list[list[Described]]:
    """For each sheet its panels; none for a refused one."""
    pictures = [
        (grid, number, image)
        for grid, panels in zip(grids, cuts, strict=True)
        if not isinstance(panels, RefusedSheet)
        for number, image in enumerate(panels)
    ]
    described = iter(describe(pictures, models.judge, models.templates, seed))
    return [[] if isinstance(panels, RefusedSheet) else [next(described) for _ in panels] for panels in cuts]


def _told(sheet: Sheet, panels: Cut, described: Sequence[Described]) -> Sheet:
    """A drawn sheet with what became of it."""
    reason = panels.reason if isinstance(panels, RefusedSheet) else ""
    return replace(sheet, descriptions=tuple(one.panel.description for one in described), reason=reason)


def _count(sheets: Sequence[Sheet], rejects: Sequence[Reject]) -> Funnel:
    drawn = [sheet.reason for sheet in sheets if sheet.grid is not None]
    unwritten = [sheet.reason.removeprefix(_NO_PROMPT) for sheet in sheets if sheet.grid is None]
    return Funnel(
        captions=len(sheets),
        grid_prompts=len(drawn),
        prompts_failed=_counted(unwritten),
        sheets=drawn.count(""),
        sheets_refused=_counted(reason for reason in drawn if reason),
        rejected=_counted(reject.reason for reject in rejects if reject.outcome == "rejected"),
        failed=_counted(reject.reason for reject in rejects if reject.outcome == "failed"),
    )


def _counted(reasons: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(reasons).items()))
