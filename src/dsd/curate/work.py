"""The work of one unit: each stage takes the whole unit at once, so that models see large batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from dsd.chat.protocol import ChatFailure, ChatModel
from dsd.curate import judge as judging
from dsd.curate import pairs as pairing
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.grids import Teacher
from dsd.curate.panels import Described, RefusedSheet, cut, describe
from dsd.curate.prompts import fixed_grid_prompts, write_grid_prompts
from dsd.curate.templates import Templates
from dsd.curate.units import Unit, UnitRows
from dsd.data.records import Grid, GridPrompt, Pair, Reject, Sheet

Cut = list[Image.Image] | RefusedSheet


@dataclass(frozen=True, kw_only=True)
class Models:
    """Everyone who works on a unit."""

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
        written = write_grid_prompts(unit.captions, models.chat, models.templates, unit.seed, config.themes)
    prompts = [prompt for prompt in written if isinstance(prompt, GridPrompt)]
    tell("drawing sheets")
    grids = models.teacher.draw(prompts, unit.seed)
    cuts = [cut(grid, config.panel_size) for grid in grids]
    tell("describing panels")
    sheets = _describe(grids, cuts, models, unit.seed)
    tell("judging pairs")
    kept, rejects = _judge(sheets, config, models, unit.seed)
    return UnitRows(
        pairs=tuple(kept),
        rejects=tuple(rejects),
        sheets=tuple(_sheets(unit, written, grids, cuts, sheets)),
        funnel=_count(written, cuts, kept, rejects),
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


def _judge(
    sheets: Sequence[Sequence[Described]], config: CurateConfig, models: Models, seed: int
) -> tuple[list[Pair], list[Reject]]:
    who = judging.judge_of(models.judge, models.templates, config.chain_of_thought, config.votes)
    kept: list[Pair] = []
    rejects: list[Reject] = []
    waiting: list[judging.Candidate] = []
    for candidate in (candidate for panels in sheets for candidate in judging.candidates(panels)):
        pictures = candidate.first.panel.image, candidate.second.panel.image
        if judging.near_copy(*pictures, config.near_copy_threshold):
            rejects.append(pairing.copied(candidate, who))
        elif failure := pairing.undescribed(candidate):
            rejects.append(pairing.without_description(candidate, failure, who))
        else:
            waiting.append(candidate)
    verdicts = judging.judge_pairs(
        waiting,
        models.judge,
        models.templates,
        chain_of_thought=config.chain_of_thought,
        seed=seed,
        votes=config.votes,
    )
    for candidate, verdict in zip(waiting, verdicts, strict=True):
        outcome = pairing.settle(candidate, verdict, who)
        if isinstance(outcome, Reject):
            rejects.append(outcome)
        else:
            kept += outcome
    return kept, rejects


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


def _count(
    written: Sequence[GridPrompt | ChatFailure], cuts: Sequence[Cut], kept: Sequence[Pair], rejects: Sequence[Reject]
) -> Funnel:
    refused = Counter(panels.reason for panels in cuts if isinstance(panels, RefusedSheet))
    sizes = [len(panels) for panels in cuts if not isinstance(panels, RefusedSheet)]
    return Funnel(
        captions=len(written),
        grid_prompts=len(cuts),
        prompts_failed=_sorted(Counter(p.reason for p in written if isinstance(p, ChatFailure))),
        sheets=len(sizes),
        sheets_refused=_sorted(refused),
        candidates=sum(size * (size - 1) // 2 for size in sizes),
        kept=len(kept) // 2,
        rejected=_sorted(Counter(reject.reason for reject in rejects if reject.outcome == "rejected")),
        failed=_sorted(Counter(reject.reason for reject in rejects if reject.outcome == "failed")),
    )


def _sorted(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items()))
