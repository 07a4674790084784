"""How long a recipe trains: decided at a run's first start and kept, so that a resumed run keeps its schedule."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from dsd.errors import UserError
from dsd.runs import Ledger

_NAME = "budget"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a run trains.

    Attributes:
        steps: optimizer steps in all.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between held-out figures and contact sheets.
        start: the finished model that the run goes on from; None for a fresh one.
    """

    steps: int
    checkpoint_every: int
    evaluate_every: int
    start: str | None = None


def kept_budget(run: Path, decide: Callable[[], Budget], start: str | None = None) -> Budget:
    """The budget of the run's first start.

    Args:
        run: the run's folder.
        decide: gives the budget if this is the first start.
        start: the finished model that the run is to go on from.

    Raises:
        UserError: the run has started from another model.
    """
    ledger = Ledger(run)
    budget = ledger.find(_NAME, lambda content: Budget(**content))
    if budget is None:
        budget = decide()
        ledger.commit(_NAME, asdict(budget))
    if budget.start != start:
        raise UserError(f'"{run}" holds a run that started from {budget.start or "nothing"}; give another folder')
    return budget
