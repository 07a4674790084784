"""The one training loop: steps, metrics, checkpoints, held-out figures. To resume, run the same command again.

A task draws all its randomness from `step_generator`, a function of the seed and the step, so a run that was killed
and started again ends with the same bits as one that was not.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dsd.attention import in_right_attention
from dsd.errors import UserError
from dsd.files import write_atomic
from dsd.log import progress
from dsd.train import checkpoint


class Task(Protocol):
    """What is trained: a model with its optimizer, data and held-out evaluation."""

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Takes one optimizer step and returns its metrics (scalars); all randomness comes from `step_generator`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything that must survive a kill: weights, optimizer state, averages."""
        ...

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` returned."""
        ...

    def evaluate(self, step: int) -> dict[str, float]:
        """Held-out figures after ``step`` steps; may write pictures. Must not change the task's state."""
        ...


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The random state of a step: a function of seed and step alone."""
    return torch.Generator(device).manual_seed(((seed * 1_000_003 + step) * 2 + 1) % (1 << 63))


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Rounds denormal numbers to zero, on CPUs that can; enter it before torch starts its threads, which inherit it.

    Optimizer states of rarely used rows decay to denormals, on which CPUs take twice the time for a whole step.
    """
    flushed_before = float.__truediv__(sys.float_info.min, 2.0) == 0.0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(flushed_before)


def learning_rate_factor(
    step: int, steps: int, *, warmup: int = 50, decay_from: float = 0.4, floor: float = 0.02
) -> float:
    """Warm up, stay, then decay linearly to ``floor`` (trapezoid; Hägele et al. 2024, arXiv 2405.18392).

    Args:
        step: the step about to be taken, from 0.
        steps: length of the run.
        warmup: steps of linear warm-up.
        decay_from: share of the run after which the decay starts.
        floor: the factor at the end.
    """
    done = step / max(steps, 1)
    decay = 1.0 if done < decay_from else max(floor, (1 - done) / (1 - decay_from))
    return min(1.0, (step + 1) / warmup) * decay


def _means(sums: Mapping[str, Sequence[float | Tensor]], step: int, folder: Path) -> dict[str, float]:
    """Means of the metrics since the last ones.

    Raises:
        UserError: one is no finite number; nothing of this state has been kept yet.
    """
    means = {name: float(torch.as_tensor(values, dtype=torch.float32).mean()) for name, values in sums.items()}
    wrong = [name for name, value in means.items() if not math.isfinite(value)]
    if wrong:
        raise UserError(
            f"training has diverged: {', '.join(wrong)} is no finite number at step {step}; the last good checkpoint "
            f'is in "{folder / "checkpoints"}"; train in float32 or at a lower learning rate, in another folder'
        )
    return means


class Metrics:
    """``metrics.jsonl``: a line a logged step; lines after a resumed step are dropped, so none stands twice."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if line.endswith("}")]
            kept = [line for line in lines if json.loads(line)["step"] <= resumed_step]
            write_atomic(path, "".join(line + "\n" for line in kept))
        self.file = path.open("a")

    def best(self, score: Callable[[dict[str, float]], float], names: Iterable[str]) -> float:
        """The best score of the lines so far that have these figures."""
        lines, wanted = [json.loads(line) for line in self.path.read_text().splitlines()], set(names)
        found = ({name: line[name] for name in wanted} for line in lines if wanted <= line.keys())
        return max((score(figures) for figures in found), default=-math.inf)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Adds a line for a step."""
        rounded = {k: round(v, 6) for k, v in values.items()}
        self.file.write(json.dumps({"step": step, "time": round(time.time(), 1), **rounded}) + "\n")
        self.file.flush()


@in_right_attention
def run(
    task: Task,
    *,
    folder: Path,
    steps: int,
    checkpoint_every: int,
    evaluate_every: int,
    description: str,
    log_every: int = 20,
    writes: bool = True,
    score: Callable[[dict[str, float]], float] | None = None,
) -> None:
    """Trains a task to ``steps`` steps, from its newest checkpoint on if there is one.

    Args:
        task: what to train, built as in its first run.
        folder: the run's folder; gets ``checkpoints/`` and ``metrics.jsonl``.
        steps: optimizer steps in all.
        checkpoint_every: steps between checkpoints.
        evaluate_every: steps between held-out figures.
        description: words for the progress bar.
        log_every: steps between lines of ``metrics.jsonl``; their metrics are means over these steps.
        writes: False on all processes of a parallel run but the first.
        score: of held-out figures, higher is better; the state that scored best is kept in ``best/``.
    """
    found = checkpoint.latest(folder / "checkpoints")
    start = 0
    if found is not None:
        start, tensors = found
        task.restore(tensors)
    metrics = Metrics(folder / "metrics.jsonl", start) if writes else None
    sums: dict[str, list[float | Tensor]] = {}
    for step in progress(range(start, steps), description=description, total=steps, completed=start):
        for name, value in task.train_step(step).items():
            if writes:
                sums.setdefault(name, []).append(value)
        done = step + 1
        if metrics is None:
            continue
        line: dict[str, float] = {}
        if done % log_every == 0 or done == steps:
            line, sums = _means(sums, done, folder), {}
        if done % evaluate_every == 0 or done == steps:
            figures = task.evaluate(done)
            line |= figures
            if score is not None and figures and score(figures) >= metrics.best(score, figures.keys()):
                checkpoint.save(folder / "best", done, task.tensors(), keep=1)
        if line:
            metrics.write(done, line)
        if done % checkpoint_every == 0 or done == steps:
            _means(sums, done, folder)
            checkpoint.save(folder / "checkpoints", done, task.tensors())
