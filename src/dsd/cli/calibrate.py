"""`dsd curate calibrate`: how far a judge can be trusted, and the score for a precision."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import tyro

from dsd.curate.config import CalibrateConfig
from dsd.recipes.registry import first


@dataclass(frozen=True, kw_only=True)
class Calibrate(CalibrateConfig):
    """Has a judge decide on pairs whose truth is known, and says what its verdicts and scores are worth.

    The judge is asked once: run it again to resume, or with another --precision to have another score.
    """

    out: Path = Path("runs/calibration")
    """Folder for the verdicts, the figures (JSON) and the table (Markdown)."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def default() -> Calibrate:
    """The command for the judge of the first recipe."""
    judging = first().curate
    return Calibrate(
        pairs=tyro.MISSING, judge=judging.judge, templates=judging.templates, chat_batch=judging.chat_batch
    )


def plan(command: Calibrate) -> list[str]:
    how = f", by the majority of {command.votes} votes" if command.votes > 1 else ""
    reached = "the lower end of whose interval is" if command.surely else "that is"
    return [
        f"read the labelled pairs of {command.pairs}",
        f"let {command.judge} judge each of them{how} (templates: {command.templates})",
        f"find the score for a precision {reached} {command.precision:g}, and write the figures to {command.out}",
    ]


def run(command: Calibrate) -> None:
    from dsd.curate.calibrate import calibrate_judge

    asked = CalibrateConfig(**{field.name: getattr(command, field.name) for field in fields(CalibrateConfig)})
    calibrate_judge(asked, command.out)
