"""The work of one unit: each stage takes the whole unit at once, so that models see large batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from dsd.chat.protocol import ChatFailure, ChatModel
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.grids import Teacher
from dsd.curate.panels import Described, RefusedSheet, cut, describe
from dsd.curate.prompts import fixed_grid_prompts, write_grid_prompts
from dsd.curate.tasks.protocol import Outcome, Task
from dsd.curate.templates import Templates
from dsd.curate.units import Unit, UnitRows
from dsd.data.records import Grid, GridPrompt, Reject, Sheet

Cut = list[Image.Image] | RefusedSheet


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everyone who works on a unit, and on what."""

    task: Task
    chat: ChatModel
    judge: ChatModel
    teacher: Teacher
    templates: Templates


def do_unit(unit: Unit, config: CurateConfig, models: Models, tell: Callable[[str], None]) -> UnitRows:
    """Does all stages of a unit.

    Args:
        unit: which captions, and the seed.
        config: the settings.
        models: who writes, draws and judges.
        tell: is told each stage as it begins.
    """
    tell("writing grid prompts")
    written: Sequence[GridPrompt | ChatFailure]
    if config.subjects:
        written = fixed_grid_prompts(unit.captions, config.themes, models.templates)
    else:
        written = write_grid_prompts(
            unit.captions, models.chat, models.templates, models.task.writer, unit.seed, config.themes
        )
    prompts = [prompt for prompt in written if isinstance(prompt, GridPrompt)]
    tell("drawing sheets")
    grids = models.teacher.draw(prompts, unit.seed)
    cuts = [cut(grid, config.panel_size, models.task.layout) for grid in grids]
    tell("describing panels")
    sheets = _describe(grids, cuts, models, unit.seed)
    tell("judging candidates")
    outcomes = models.task.judge(sheets, models.judge, models.templates, config, unit.seed)
    return UnitRows(
        pairs=tuple(pair for outcome in outcomes if not isinstance(outcome, Reject) for pair in outcome),
        rejects=tuple(outcome for outcome in outcomes if isinstance(outcome, Reject)),
        sheets=tuple(_sheets(unit, written, grids, cuts, sheets)),
        funnel=_count(written, cuts, outcomes),
    )


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


def _sheets(
    unit: Unit,
    written: Sequence[GridPrompt | ChatFailure],
    grids: Sequence[Grid],
    cuts: Sequence[Cut],
    described: Sequence[Sequence[Described]],
) -> list[Sheet]:
    """A row for each caption of the unit, whatever became of it."""
    drawn = iter(zip(grids, cuts, described, strict=True))
    rows = []
    for caption, prompt in zip(unit.captions, written, strict=True):
        if isinstance(prompt, ChatFailure):
            reason = f"no grid prompt: {prompt.reason}"
            rows.append(Sheet(caption=caption, prompt=None, grid=None, reason=reason))
            continue
        grid, panels, words = next(drawn)
        descriptions = tuple(one.panel.description for one in words)
        reason = panels.reason if isinstance(panels, RefusedSheet) else ""
        rows.append(Sheet(caption=caption, prompt=prompt, grid=grid, descriptions=descriptions, reason=reason))
    return rows


def _count(written: Sequence[GridPrompt | ChatFailure], cuts: Sequence[Cut], outcomes: Sequence[Outcome]) -> Funnel:
    refused = Counter(panels.reason for panels in cuts if isinstance(panels, RefusedSheet))
    rejects = [outcome for outcome in outcomes if isinstance(outcome, Reject)]
    kept = [outcome for outcome in outcomes if not isinstance(outcome, Reject)]
    return Funnel(
        captions=len(written),
        grid_prompts=len(cuts),
        prompts_failed=_sorted(Counter(p.reason for p in written if isinstance(p, ChatFailure))),
        sheets=len(cuts) - refused.total(),
        sheets_refused=_sorted(refused),
        candidates=len(outcomes),
        kept=len(kept),
        rejected=_sorted(Counter(reject.reason for reject in rejects if reject.outcome == "rejected")),
        failed=_sorted(Counter(reject.reason for reject in rejects if reject.outcome == "failed")),
        pairs=sum(map(len, kept)),
    )


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
