"""Rows of a table as they are measured: each once, kept in a file, so that a table is made again in seconds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsd.evaluate import pictures
from dsd.evaluate.metrics.registry import COSTS as COST_COLUMNS
from dsd.evaluate.scores import Scores, from_plain, plain
from dsd.evaluate.workers import apart
from dsd.runs import Ledger
from dsd.train import environment
from dsd.train.config import TrainConfig
from dsd_world.tables.config import Row, TablesConfig
from dsd_world.tables.ingredients import Ingredients

SCORES, COSTS = "scores", "costs"
"""Folders of what each training got, and of what drawing with it takes."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One training of a row.

    Attributes:
        scores: of its pictures.
        place: folder of its pictures.
        machine: that drew them, in words.
    """

    scores: Scores
    place: Path
    machine: str


def measure(ingredients: Ingredients, row: Row, seed: int, budget: TrainConfig) -> Measured:
    """Trains, draws and measures a row, or what of it an earlier start left undone.

    Args:
        ingredients: of the tables.
        row: of a table.
        seed: of the training.
        budget: of it, before the row's changes.
    """
    found = find(ingredients, row, seed, budget)
    if found is not None:
        return found
    method, folder = ingredients.method(row, seed, budget), ingredients.out / "pictures"
    place = pictures.draw(ingredients.benchmark, method, folder)
    (run,) = plain(ingredients.ruler.measure(row.name, pictures.read(ingredients.benchmark, place)).runs)
    values = {
        metric: run[metric] for metric in run if metric not in COST_COLUMNS
    }  # those were taken while other jobs ran
    content = {"pictures": str(place.relative_to(folder)), "machine": environment.machine(), "scores": values}
    Ledger(ingredients.out / SCORES).commit(_name(ingredients, row, seed, budget), content)
    return _read(ingredients, row, seed, content)


def with_costs(
    ingredients: Ingredients, row: Row, scores: Scores, budget: TrainConfig, *, so_far: bool = False
) -> Scores:
    """Scores of a row with what drawing costs on this machine, measured once when no other job runs.

    A process of its own measures each row, so that memory is not what the rows before have left.

    Args:
        ingredients: of the tables.
        row: of a table.
        scores: of the row; its last training draws.
        budget: of it, before the row's changes.
        so_far: measure nothing; where it has not been measured, the scores stay as they are.
    """
    *others, last = scores.runs
    seed = scores.seeds[-1]
    ledger, name = Ledger(ingredients.out / COSTS), _name(ingredients, row, seed, budget)
    costs = ledger.find(name, lambda content: content["costs"])
    if costs is None:
        if so_far:
            return scores
        ingredients.method(row, seed, budget)  # trained, where it has to be, before anything is measured
        costs = apart(_costs, ingredients.config, ingredients.out, row, seed, budget)
        ledger.commit(name, {"machine": environment.machine(), "costs": costs})
    return dataclasses.replace(scores, runs=[*others, {**last, **costs}])


def _costs(config: TablesConfig, out: Path, row: Row, seed: int, budget: TrainConfig) -> dict[str, list[float]]:
    ingredients = Ingredients(config, out)
    return pictures.costs(ingredients.benchmark, ingredients.method(row, seed, budget), config.costed)


def find(ingredients: Ingredients, row: Row, seed: int, budget: TrainConfig) -> Measured | None:
    """What `measure` left, if it has; arguments likewise."""
    name = _name(ingredients, row, seed, budget)
    return Ledger(ingredients.out / SCORES).find(name, lambda content: _read(ingredients, row, seed, content))


def _name(ingredients: Ingredients, row: Row, seed: int, budget: TrainConfig) -> str:
    return f"{ingredients.drawn_key(row, budget)}-seed{seed}"


def _read(ingredients: Ingredients, row: Row, seed: int, content: dict[str, Any]) -> Measured:
    return Measured(
        scores=Scores(name=row.name, runs=from_plain([content["scores"]]), seeds=(seed,)),
        place=ingredients.out / "pictures" / content["pictures"],
        machine=content["machine"],
    )
