"""What a run says of itself in figures, line by line, and the judgement that they make no sense any more."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median, median_low
from typing import Any

import torch
from torch import Tensor

from dsd.errors import UserError, cut
from dsd.files import write_atomic, writing
from dsd.train import checkpoint

GRADIENT_NORM = "gradient_norm"
"""The metric of this name is watched; see `Metrics.means`."""
LOSS = "loss"
"""The metric that tells what a loss usually is; see `Metrics.require_sense`."""
LARGEST_WEIGHT = "largest_weight"
"""The figure of this name is held against `_MOST_WEIGHT`."""
EXPLODED = 1000.0
"""How many times its usual value a norm of gradients or a loss has when training has exploded."""
_LARGEST = sys.float_info.max
_MOST_WEIGHT = 1e5
"""No weight of a model that draws is as large; a loss may stay small where such ones only saturate attention."""
_LEAST_NORM = _LEAST_LOSS = 1e-3


class Metrics:
    """``metrics.jsonl``: a line a logged step; lines after a resumed step are dropped, so none stands twice.

    Args:
        path: of the file.

    Raises:
        UserError: the file is damaged, other than by half of a last line, which is dropped.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._losses: list[float] = []  # of the steps since the last line, or before it
        self.lines = _lines(path) if path.exists() else []

    def go_on(self, step: int) -> None:
        """Drops the lines after a step, which is gone on from.

        Raises:
            UserError: the place cannot be written to.
        """
        self.lines = [line for line in self.lines if line["step"] <= step]
        if self.path.exists():
            write_atomic(self.path, "".join(map(_text, self.lines)))

    def best(self, score: Callable[[dict[str, float]], float], names: Iterable[str]) -> float:
        """The best score of the lines so far that have these figures."""
        wanted = set(names)
        found = ({name: line[name] for name in wanted} for line in self.lines if wanted <= line.keys())
        return max((score(figures) for figures in found), default=-math.inf)

    def has(self, step: int) -> bool:
        """Whether there is a line for a step."""
        return any(line["step"] == step for line in self.lines)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line for a step.

        Raises:
            UserError: the place cannot be written to.
        """
        line = {"step": step, "time": round(time.time(), 1), **{k: round(v, 6) for k, v in values.items()}}
        if self.path.is_symlink() and not self.path.exists():
            raise UserError(f'"{self.path}" is a link to a file that is not there; remove the link, or bring it back')
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(_text(line))
        self.lines.append(line)

    def means(self, since: Mapping[str, Sequence[float | Tensor]], step: int) -> dict[str, float]:
        """Means of the metrics since the last line.

        Args:
            since: each metric's values, a step each.
            step: the last of these steps.

        Raises:
            UserError: one is no finite number, or gradients were (by their median) `EXPLODED` times as long as in the
                lines before (in the first line, as the first one). Nothing of this state has been kept yet.
        """
        values = {
            name: torch.stack([torch.as_tensor(v, dtype=torch.float32).cpu() for v in vs]) for name, vs in since.items()
        }
        for name, found in values.items():
            if not bool(found.isfinite().all()):
                raise self._diverged(f"{name} is no finite number at step {step}")
        if GRADIENT_NORM in values:
            norms = values[GRADIENT_NORM]
            before = [line[GRADIENT_NORM] for line in self.lines if GRADIENT_NORM in line] or [float(norms[0])]
            usual, now = max(median(before), _LEAST_NORM), median(norms.tolist())
            if now > EXPLODED * usual:
                raise self._diverged(
                    f"the norm of the gradients is {now:.3g} at step {step}, where {usual:.3g} is usual"
                )
        self._losses = [float(loss) for loss in values.get(LOSS, self._losses)]
        return {name: float(found.mean()) for name, found in values.items()}

    def require_sense(self, figures: Mapping[str, float], step: int) -> None:
        """Judges figures of a state before it is kept.

        Args:
            figures: by name.
            step: after which they were found.

        Raises:
            UserError: one is no finite number, a loss (by its name) is `EXPLODED` times as large as losses usually
                were, or a weight is larger than any that is of use.
        """
        losses = [line[LOSS] for line in self.lines if LOSS in line] or self._losses
        for name, value in figures.items():
            if not math.isfinite(value):
                raise self._diverged(f"{name} is no finite number after step {step}")
            if name == LARGEST_WEIGHT and value > _MOST_WEIGHT:
                raise self._diverged(f"a weight is {value:.3g} after step {step}, where none is above {_MOST_WEIGHT:g}")
            if LOSS in name and losses and value > EXPLODED * max(usual := median_low(losses), _LEAST_LOSS):
                raise self._diverged(f"{name} is {value:.3g} after step {step}, where {usual:.3g} is usual")

    def _diverged(self, what: str) -> UserError:
        folder = self.path.parent / checkpoint.FOLDER
        kept = checkpoint.newest(folder)
        which = f'the last good checkpoint, of step {kept}, is kept in "{folder}"' if kept else "no checkpoint is kept"
        return UserError(
            f"training has diverged: {what}; {which}; train at a lower learning rate, with a longer warm-up or in "
            "float32, in another folder"
        )


def _lines(path: Path) -> list[dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f'cannot read "{path}" ({error.strerror}); move it away, only figures are lost') from error
    *whole, rest = text.split("\n")  # what a killed run had half written has no end
    found = []
    for number, line in enumerate(whole if not _is_line(rest) else [*whole, rest], start=1):
        if not _is_line(line):
            raise UserError(
                f'"{path}" is damaged in line {number} ({cut(line, 40)!r}); correct or delete that line, only its '
                "figures are lost"
            )
        found.append(json.loads(line))
    return found


def _is_line(text: str) -> bool:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and type(content.get("step")) is int and all(map(_is_figure, content.values()))


def _is_figure(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # which no NaN is


def _text(line: Mapping[str, float]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
