"""`dsd curate rescore FOLDER`: another `min_score` for a finished dataset, without asking again."""

from __future__ import annotations

from dataclasses import dataclass

import tyro


@dataclass(frozen=True, kw_only=True)
class Rescore:
    """Makes the dataset that a curation with another min_score would have made of the same verdicts."""

    folder: tyro.conf.Positional[str]
    """A finished dataset."""
    min_score: float = tyro.MISSING
    """What was judged the same is kept from this score on; lower than before is possible too."""
    out: str = tyro.MISSING
    """Folder of the new dataset."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def default() -> Rescore:
    return Rescore(folder=tyro.MISSING)


def plan(command: Rescore) -> list[str]:
    return [
        f"read the verdicts of {command.folder}, and ask nobody",
        f"keep what was judged the same with a score of at least {command.min_score:g}",
        f"write kept pairs, rejects with their reasons, and the funnel to {command.out}",
    ]


def run(command: Rescore) -> None:
    from dsd.curate.rejudge import rescore

    rescore(command.folder, command.min_score, command.out)
