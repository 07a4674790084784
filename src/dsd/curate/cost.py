"""What a curation costs, before any of it is spent: counted operations, and what is assumed about the rest.

Everything is counted on a past funnel: how many captions give prompts, sheets, candidates and pairs. Seconds are those
of a trial on this machine (`dsd.curate.trial`), or else of counted operations at a share of a device's peak.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.curate.past import RowBytes, examples_of

PAIRS_OF_A_CAPTION = 4
"""Where no funnel is known: of the twelve ordered pairs of a sheet. The paper speaks of 400 000 pairs, and of half of
the candidates or fewer that survive."""
LETTERS_OF_A_TOKEN = 4
PIXELS_OF_A_TOKEN = 28
"""A chat model sees a picture as one token for so many pixels squared."""
REPLY_SHARE = 0.4
"""Of the tokens that a template allows, a usual reply has so many."""
_CAPTION_TOKENS = 25


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much of everything, rounded to whole ones.

    Attributes:
        captions: that are read: whole units of them.
        units: of work.
        sheets: grid prompts that are written, and drawn.
        cut: sheets of them that are cut into panels.
        panels: of those, each described once.
        candidates: of those, as the task counts them.
        judged: candidates that the judge is asked about.
        kept: of the candidates.
        pairs: rows of these.
        films: rows to train on where examples have more than two frames.
        writes: questions to the writer.
        judgements: questions about candidates, a vote each.
    """

    captions: int
    units: int
    sheets: int
    cut: int
    panels: int
    candidates: int
    judged: int
    kept: int
    pairs: int
    films: int
    writes: int
    judgements: int

    @property
    def rejects(self) -> int:
        """Candidates that are not kept."""
        return self.candidates - self.kept


def assumed_funnel(config: CurateConfig) -> Funnel:
    """Of a curation of which nothing is known: each caption gives a sheet, and a third of the candidates pairs."""
    from dsd.curate.tasks.registry import task_of

    captions, candidates = 100, task_of(config.task).candidates
    pairs = min(PAIRS_OF_A_CAPTION, 2 * candidates) * captions
    return Funnel(
        captions=captions,
        grid_prompts=captions,
        sheets=captions,
        candidates=candidates * captions,
        kept=pairs // 2,
        pairs=pairs,
        films=pairs if config.frames > 2 else None,
        rejected={"not the same individual": candidates * captions - pairs // 2},
    )


def amounts(config: CurateConfig, wanted: int | None, funnel: Funnel) -> Amounts:
    """Counts what so many pairs take.

    Args:
        config: of the curation.
        wanted: rows to train on; None for what the config's own units give.
        funnel: of a curation to count on; see `dsd.curate.past.require_useful`.
    """
    from dsd.curate.pairs import NEAR_COPY, NO_DESCRIPTION
    from dsd.curate.tasks.registry import task_of

    task, units = task_of(config.task), config.units
    if wanted is not None:
        units = -(-wanted * funnel.captions // (examples_of(funnel, config) * config.unit_size))
    captions = units * config.unit_size

    def scaled(count: int) -> int:
        return round(Fraction(captions * count, funnel.captions))

    cut = scaled(funnel.sheets)
    candidates = cut * task.candidates
    unasked = funnel.rejected.get(NEAR_COPY, 0)
    unasked += sum(count for reason, count in funnel.failed.items() if reason.startswith(NO_DESCRIPTION))
    judged = max(0, candidates - scaled(unasked))
    return Amounts(
        captions=captions,
        units=units,
        sheets=scaled(funnel.grid_prompts),
        cut=cut,
        panels=cut * task.layout.panels,
        candidates=candidates,
        judged=judged,
        kept=min(candidates, scaled(funnel.kept)),
        pairs=scaled(funnel.pairs),
        films=scaled(funnel.films or 0) if config.frames > 2 else 0,
        writes=0 if config.subjects or config.sheets_from else captions,
        judgements=judged * config.votes,
    )


def disk(amount: Amounts, rows: RowBytes) -> float:
    """Bytes of the whole folder."""
    return (
        amount.pairs * rows.pairs
        + amount.films * rows.films
        + amount.rejects * rows.rejects
        + amount.captions * rows.grids
        + amount.units * rows.unit
    )


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """Of questions and replies.

    Attributes:
        given: to the model, pictures included.
        replied: by it.
    """

    given: float
    replied: float

    def __add__(self, other: Tokens) -> Tokens:
        return Tokens(given=self.given + other.given, replied=self.replied + other.replied)


def picture_tokens(config: CurateConfig) -> int:
    """Tokens that a panel counts as."""
    return math.ceil(config.panel_size / PIXELS_OF_A_TOKEN) ** 2


def tokens(config: CurateConfig, amount: Amounts) -> Mapping[str, Tokens]:
    """Tokens by the part of the config that names the model: ``chat`` writes, ``judge`` describes and judges.

    Args:
        config: of the curation.
        amount: of its questions.
    """
    from dsd.curate.tasks.registry import task_of

    templates = task_of(config.task).load_templates(config.templates, config.writer_templates)
    picture = picture_tokens(config)

    def of(kind: str, asked: int, more: int) -> Tokens:
        template = templates[kind]
        shown = template.examples if template.example_from == 0 else ()
        letters = len(template.text) * (1 + len(shown)) + sum(len(said) for pair in shown for said in pair)
        return Tokens(
            given=asked * (letters / LETTERS_OF_A_TOKEN + more), replied=asked * template.max_tokens * REPLY_SHARE
        )

    verdicts = "judge" if config.chain_of_thought else "judge_direct"
    if verdicts not in templates:  # a task of another package asks in its own words
        verdicts = next(kind for kind in templates if kind not in ("grid_prompt", "sheet", "describe"))
    judged = of("describe", amount.panels, picture) + of(verdicts, amount.judgements, 2 * picture)
    return {"chat": of("grid_prompt", amount.writes, _CAPTION_TOKENS), "judge": judged}


def teacher_operations(config: CurateConfig) -> float:
    """Floating-point operations that the teacher's transformer does for a sheet, as torch counts them.

    Raises:
        UserError: the model's configs are not known.
    """
    from dsd.backbones.cost import shape_of
    from dsd.curate.tasks.registry import task_of

    layout = task_of(config.task).layout
    size = (layout.rows * config.panel_size, layout.columns * config.panel_size)
    forward = shape_of(config.teacher).forward_operations(size, 1, config.sheet_text_tokens)
    return forward * config.steps * branches(config)


def branches(config: CurateConfig) -> int:
    """Evaluations of the teacher a step."""
    return 2 if config.true_guidance > 1 else 1
