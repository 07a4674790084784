"""The work of a curation: every unit's grid prompts are written, its sheets are drawn, and they are judged.

Each stage of a unit takes it whole, so that models see large batches. Sheets are committed before anything is asked
about them: neither a kill nor another judge has them drawn again.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from dsd.chat.protocol import ChatFailure
from dsd.curate.diversity import refuse_repeated
from dsd.curate.executors.protocol import Work
from dsd.curate.films import films
from dsd.curate.funnel import Funnel
from dsd.curate.models import DRAW, JUDGE, WRITE, Models
from dsd.curate.panels import Described, RefusedSheet, cut, describe
from dsd.curate.prompts import fixed_grid_prompts, write_grid_prompts
from dsd.curate.tasks.task import JudgeSettings
from dsd.curate.units import Unit, UnitLedger, Units
from dsd.data.records import Caption, Grid, GridPrompt, Reject, Sheet
from dsd.data.rows import Kind, Row, to_sheet
from dsd.data.store import read_shard, shard_path
from dsd.errors import UserError
from dsd.locks import Holder, holder
from dsd.places import Place

Cut = list[Image.Image] | RefusedSheet
_NO_PROMPT = "no grid prompt: "
_SEEN_SECONDS = 5.0
"""How late a file on a shared disk may be seen."""


@dataclass(frozen=True, kw_only=True)
class Curation:
    """Captions to grid prompts to sheets to pairs, a `dsd.curate.executors.protocol.Work`.

    A unit's sheets are kept as a file and its judgement as a record; its grid prompts are kept in the sheets alone.

    Attributes:
        units: all of them.
        models: who works on them.
        ledger: of the dataset.
        drawn: folder of the dataset whose sheets are judged.
        holder: who has to hold the dataset's folder for this to be done; None for whoever does it.
    """

    units: Units
    models: Models
    ledger: UnitLedger
    drawn: Place
    holder: Holder | None = None

    def __len__(self) -> int:
        return len(self.units)

    @property
    def stages(self) -> tuple[str, ...]:
        """Of every unit; without those that nobody is needed for."""
        config = self.models.config
        if config.sheets_from:
            return (JUDGE,)
        return (DRAW, JUDGE) if config.subjects else (WRITE, DRAW, JUDGE)

    def waits(self, stage: str) -> bool:
        """Whether the stage only waits for a server."""
        return self.models.waits(stage)

    def sources(self, stage: str, *, trying: bool) -> dict[str, str]:
        """The revision of the stage's model; see `dsd.curate.executors.protocol.Work`."""
        self._require_held()
        return self.models.revision_of(stage, trying=trying)

    def for_others(self) -> Curation:
        """Refuses to be done where the folder is not seen to be held as it is now."""
        return replace(self, holder=holder(self.ledger.dataset))

    def like(self, before: Work[Any]) -> Curation:
        """With the models of another curation of the same settings."""
        if isinstance(before, Curation) and before.models == self.models:
            return replace(self, models=before.models)
        return self

    def find(self, stage: str, number: int) -> Any | None:
        """The file of a unit's sheets once they are drawn, and its record once it is judged."""
        if stage == JUDGE:
            return self.ledger.find(number)
        return self.ledger.find_sheets(number) if stage == DRAW else None

    def do(self, stage: str, number: int, given: Any) -> Any:
        """Has the grid prompts of a unit written, its sheets drawn, or them judged."""
        if stage == WRITE:
            return write(self.units[number], self.models)
        if stage == DRAW:
            unit = self.units[number]
            drawn = draw(unit, given or write(unit, self.models), self.models)
            self._require_held()
            return self.ledger.commit_sheets(number, drawn)
        sheets = list(read_shard(shard_path(self.drawn, "grids", number), to_sheet))
        judged = judge(sheets, self.units.seed(number), self.models)
        self._require_held()
        return self.ledger.commit(number, *judged)

    def _require_held(self) -> None:
        """Looks for a while, since what one machine writes may be seen late by another."""
        place = self.ledger.dataset
        until = time.monotonic() + _SEEN_SECONDS
        while self.holder is not None and holder(place) != self.holder:
            if time.monotonic() > until:
                raise UserError(
                    f'a worker on {socket.gethostname()} does not see in "{place}" that process {self.holder.pid} on '
                    f"{self.holder.host} is at work there; give a folder that all machines share, or an address such "
                    "as s3://bucket/folder"
                )
            time.sleep(_SEEN_SECONDS / 20)


def write(unit: Unit, models: Models) -> Sequence[GridPrompt | ChatFailure]:
    """Captions to grid prompts, one for each or why there is none.

    Args:
        unit: which captions, and the seed.
        models: who writes.
    """
    config, templates = models.config, models.templates
    if config.subjects:
        return fixed_grid_prompts(unit.captions, config.themes, templates)
    written = write_grid_prompts(unit.captions, models.chat, templates, models.task.writer, unit.seed, config.themes)
    return refuse_repeated(written) if config.refuse_repeated else written


def draw(unit: Unit, written: Sequence[GridPrompt | ChatFailure], models: Models) -> list[Sheet]:
    """Grid prompts to sheets, one for each caption, whatever became of it; none has descriptions yet.

    Args:
        unit: which captions, and the seed.
        written: a grid prompt for each, or why there is none.
        models: who draws.
    """
    grids = models.draw([prompt for prompt in written if isinstance(prompt, GridPrompt)], unit.seed)
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
