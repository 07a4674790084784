"""tiny-vlm judges on, once there is a teacher: half of what it learns from is drawn again by the teacher's hand.

A judge of crisp drawings alone is far too strict with what the teacher draws: half of its good pairs were refused.
"""

from __future__ import annotations

from pathlib import Path

import torch

from dsd.models import revision_of
from dsd_world.examined_pairs import Pairs
from dsd_world.models.redrawn import AS_FAR_AS_SHEETS, RedrawnFamilies
from dsd_world.models.siblings import trained
from dsd_world.models.vlm import VlmTask, first_family

_FAMILIES, _HELD_FAMILIES = 2048, 256
_APART = 1 << 21  # from the families that are drawn once
_CALIBRATION_FAMILIES = 512
_EVALUATED_FAMILIES = 64


class JudgeTask(VlmTask):
    """Trains a finished tiny-vlm further; see `dsd_world.training.Recipe`.

    Args:
        run: the run's folder; tiny-vlm and teacher come from the runs beside it, else from the package.
        steps: optimizer steps in all.
    """

    def __init__(self, run: Path, steps: int) -> None:
        self.teacher, start = trained(run, "teacher"), trained(run, "vlm")
        seed = int(revision_of(start)[:6], 16)  # who goes on from another model meets other individuals
        held = torch.arange(_HELD_FAMILIES)
        self.held = RedrawnFamilies(run / "cache" / "validation", self.teacher, "validation", held)
        families = torch.arange(_FAMILIES) + first_family(seed) + _APART
        redrawn = RedrawnFamilies(run / "cache" / "training", self.teacher, "training", families)
        super().__init__(run, steps, seed=seed, start=start, redrawn=redrawn)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """The figures of tiny-vlm, and the accuracy of verdicts on pairs drawn again."""
        figures = super().evaluate(step)
        if not figures:
            return {}
        pairs = self.held.pairs(_EVALUATED_FAMILIES)
        names = {"redrawn_chain_of_thought": "judge", "redrawn_direct": "judge_direct"}
        return figures | {name: self.accuracy(job, pairs) for name, job in names.items()}  # pyright: ignore[reportArgumentType]

    def score(self, figures: dict[str, float]) -> float:
        """Mean accuracy of all verdicts, on pairs drawn once and again, and with the same weight that of captions."""
        verdicts = ("chain_of_thought", "direct", "redrawn_chain_of_thought", "redrawn_direct")
        return sum(figures[name] for name in verdicts) / len(verdicts) + figures["caption"]

    def calibration_pairs(self) -> Pairs:
        """Pairs as it will meet them: as far apart, and as often the same, as panels of a teacher's sheets."""
        index = _HELD_FAMILIES + torch.arange(_CALIBRATION_FAMILIES)
        path = self.run / "cache" / "calibration"
        families = RedrawnFamilies(path, self.teacher, "validation", index, strengths=AS_FAR_AS_SHEETS)
        return families.pairs_as_on_sheets()


def build(run: Path, *, steps: int) -> JudgeTask:
    """The task for a run of ``steps`` steps."""
    return JudgeTask(run, steps)
