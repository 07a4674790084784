"""Trains the embedded models: ``dsd world train NAME``. Each recipe is a task for the one loop of `dsd.train.loop`."""

from __future__ import annotations

import functools
import importlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from dsd.config import did_you_mean
from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.log import console
from dsd.models import resolve
from dsd.train import checkpoint, environment, loop

RECIPES = {name: f"dsd.world.recipes.{name}" for name in ("autoencoder", "teacher", "vlm", "dino", "clip")}
STUDENT = "student"
"""Not a task of its own: its recipe is curation and training as any user runs them."""
_MEASURED_STEPS = 12


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long a recipe trains; recorded at its first start, so that a resumed run keeps its learning-rate schedule.

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


class Recipe(loop.Task, Protocol):
    """A task that also knows which state of it is best and where its model goes."""

    def score(self, figures: dict[str, float]) -> float:
        """One number of the held-out figures of `evaluate`; higher is better."""
        ...

    def export(self, folder: Path, card: str) -> None:
        """Writes the model's standard folder (float16 safetensors) with ``card`` as its README.md."""
        ...


def _measured_steps(recipe: Recipe, hours: float) -> int:
    started = time.perf_counter()
    for step in range(_MEASURED_STEPS):
        if step == 2:
            started = time.perf_counter()
        recipe.train_step(step)
    return max(1, int(hours * 3600 / ((time.perf_counter() - started) / (_MEASURED_STEPS - 2)) * 0.95))


@loop.flushed_denormals()
def train_model(
    name: str,
    *,
    steps: int | None = None,
    hours: float | None = None,
    run: Path,
    out: Path | None = None,
    start: str | None = None,
) -> None:
    """Trains one embedded model and writes its folder.

    Args:
        name: a key of `RECIPES`, or `STUDENT`.
        steps: optimizer steps; or
        hours: a wall-clock budget, from which the first start measures the steps.
        run: the run's folder (checkpoints, metrics, contact sheets); re-running resumes.
        out: the folder of the finished model; ``run/model`` when absent.
        start: a finished pipeline (``embedded:NAME`` or a folder) to go on from, for autoencoder and teacher.

    Raises:
        UserError: for an unknown name, a missing budget or a model that cannot go on from another.
    """
    if name == STUDENT:
        if start is not None:
            raise UserError("student cannot go on from a finished model; leave out --start")
        _train_student(steps, hours, run, out)
        return
    if name not in RECIPES:
        raise UserError(f'there is no embedded model "{name}"; {did_you_mean(name, [*RECIPES, STUDENT])}')
    build = _builder(name, start)
    run.mkdir(parents=True, exist_ok=True)
    budget_file = run / "budget.json"
    if budget_file.exists():
        budget = Budget(**json.loads(budget_file.read_text()))
        if budget.start != start:
            raise UserError(f'"{run}" holds a run that started from {budget.start or "nothing"}; give another folder')
    else:
        if steps is None:
            if hours is None:
                raise UserError(f"no budget for {name}: give --steps or --hours")
            steps = _measured_steps(build(run, steps=1000), hours)
        every = max(1, steps // 12)
        budget = Budget(steps=steps, checkpoint_every=every, evaluate_every=every, start=start)
        write_atomic(budget_file, json.dumps(asdict(budget)) + "\n")
    recipe = build(run, steps=budget.steps)
    started = time.perf_counter()
    loop.run(
        recipe,
        folder=run,
        steps=budget.steps,
        checkpoint_every=budget.checkpoint_every,
        evaluate_every=budget.evaluate_every,
        description=f"training {name}",
        score=recipe.score,
    )
    best = checkpoint.latest(run / "best")
    if best is not None:
        recipe.restore(best[1])
    figures = recipe.evaluate(best[0] if best is not None else budget.steps)
    folder = out if out is not None else run / "model"
    recipe.export(folder, _card(name, budget, figures, time.perf_counter() - started))
    console.print(f"{name}: {json.dumps(figures)} -> {folder}")


def _builder(name: str, start: str | None) -> Callable[..., Recipe]:
    module = importlib.import_module(RECIPES[name])
    if start is None:
        return module.build
    if not hasattr(module, "go_on"):
        raise UserError(f"{name} cannot go on from a finished model; leave out --start")
    return functools.partial(module.go_on, start=Path(resolve(start)))


def _train_student(steps: int | None, hours: float | None, run: Path, out: Path | None) -> None:
    from dsd.world.recipes.student import train_student

    if hours is not None:
        raise UserError("the student's length is counted in steps; give --steps in place of --hours")
    train_student(run, out if out is not None else run / "model", steps=steps)


def _card(name: str, budget: Budget, figures: dict[str, float], seconds: float) -> str:
    lines = "\n".join(f"| {key} | {value:.4g} |" for key, value in figures.items())
    start = f" --start {budget.start}" if budget.start else ""
    return (
        f"# tiny {name}\n\nAn embedded model of `dsd`, trained on the drawn world by `dsd world train {name} "
        f"--steps {budget.steps}{start}`.\n\n"
        f"Commit {environment.commit()}; {environment.machine()}; {seconds / 60:.0f} minutes since its last start.\n\n"
        f"| held-out figure | value |\n|---|---|\n{lines}\n"
    )
