"""What the tables of the drawn world are told: one frozen config, readable without torch."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from dsd.config import require_seeds
from dsd.curate.config import CurateConfig
from dsd.errors import UserError
from dsd.limits import MOST_SCALE, require_within
from dsd.sampling import Sampling
from dsd.train.config import TrainConfig
from dsd_world import fixed
from dsd_world.recipe import SAMPLING, TEACHER_GUIDANCE, tiny
from dsd_world.student_config import StudentConfig

Source = Literal["judged", "unjudged", "direct", "fixed", "oracle", "alike", "drawn"]
"""What a method is trained on: pairs that the judge kept; all candidates; what a direct verdict kept; what was kept of
a few fixed prompts; what tiny-dino finds the same; what it finds the most alike; pairs that the world draws."""


_SCALES: dict[str, tuple[float, float]] = dict.fromkeys(
    ("ip-adapter", "ip-adapter-plus", "instantid", "controlnet"), (2.5, 2.5)
)
"""Guidance that suits a method better than the student's 1.5: of 1, 1.5, 2.5 and 4 the one with the highest identity
and prompt following together on 16 validation individuals (for IP-Adapter 4 is as good as 2.5)."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a table.

    Attributes:
        name: of the row.
        method: of `dsd.baselines.registry.METHODS`, or ``truth``.
        source: of the pairs that it is trained on.
        pairs: so many at most; None for all.
        changes: of the budget, by field name.
        steps: denoising steps, where they differ from the table's.
        scales: true guidance by text and by picture, where they differ from the table's: what is best for the method on
            validation individuals.
        varies: whether trainings with several seeds differ; what is never trained is drawn once.
    """

    name: str
    method: str
    source: Source = "judged"
    pairs: int | None = None
    changes: dict[str, float | str] = field(default_factory=dict)
    steps: int | None = None
    scales: tuple[float, float] | None = None
    varies: bool = True


@dataclass(frozen=True, kw_only=True)
class TablesConfig:
    """Settings of all tables. The defaults take some ten hours on two CPU cores.

    Attributes:
        subjects: held-out individuals, each asked for under four prompts.
        seeds: of the trainings of the main table.
        ablation_seeds: of the trainings of the ablations and of the error budget.
        curate: phases 1 and 2 of what everything is trained on, as of the shipped student; captions are written by the
            tables themselves.
        train: budget of every training of the main table, as of the shipped student.
        ablation_train: budget of every training of the ablations and of the error budget.
        ablation_pairs: that each of those is trained on.
        ablation_units: of curation, for the ablations that curate anew.
        themes: four scenes, for the ablation without captions and language model.
        fixed_subjects: that are drawn in them again and again there.
        face_steps: of the face pack that InstantID needs.
        sampling: of all rows that do not say otherwise.
        teacher_guidance: true guidance of methods that see none.
        judge_pairs: drawn pairs at equal captions that the judge is examined on.
        sheets: of the teacher, for the error budget.
        costed: individuals that seconds and memory are measured on, one after the other when nothing else runs.
    """

    subjects: int = 96
    seeds: tuple[int, ...] = (0, 1, 2)
    ablation_seeds: tuple[int, ...] = (0, 1, 2)
    curate: CurateConfig = field(default_factory=lambda: StudentConfig().curate)
    train: TrainConfig = field(default_factory=lambda: StudentConfig().train)
    ablation_train: TrainConfig = field(
        default_factory=lambda: replace(tiny().train, steps=1000, held_out=8, sample_every=500)
    )
    ablation_pairs: int = 8192
    ablation_units: int = 64
    themes: tuple[str, ...] = fixed.SCENES
    fixed_subjects: tuple[str, ...] = fixed.SUBJECTS
    face_steps: int = 600
    sampling: Sampling = SAMPLING
    teacher_guidance: float = TEACHER_GUIDANCE
    judge_pairs: int = 2000
    sheets: int = 256
    costed: int = 12

    def __post_init__(self) -> None:
        if not self.seeds or not self.ablation_seeds:
            raise UserError("a table needs at least one seed of its trainings; give 0")
        for seed in (*self.seeds, *self.ablation_seeds):
            require_seeds("one of the seeds", seed)
        for name in (
            "subjects", "ablation_pairs", "ablation_units", "face_steps", "judge_pairs", "sheets", "costed"
        ):  # fmt: skip
            require_within(name, getattr(self, name), 1)
        require_within("teacher_guidance", self.teacher_guidance, -MOST_SCALE, MOST_SCALE)


def quick() -> TablesConfig:
    """All tables in some twenty minutes: every part runs, and no number means much."""
    short = replace(tiny().train, steps=24, ema_decay=0.9, held_out=2, sample_every=24, checkpoint_every=24, warmup=5)
    return TablesConfig(
        subjects=8, seeds=(0,), ablation_seeds=(0,), curate=replace(tiny().curate, units=8), train=short,
        ablation_train=short, ablation_pairs=512, ablation_units=4, face_steps=40, judge_pairs=128, sheets=16,
        sampling=replace(SAMPLING, steps=8), costed=2,
    )  # fmt: skip


def main_rows(config: TablesConfig) -> list[Row]:
    """The student beside the paper's baselines, the text-only teacher and what bounds them."""
    trained = ("student", "ip-adapter", "ip-adapter-plus", "instantid", "controlnet")
    fitted = ("dreambooth", "dreambooth-lora", "textual-inversion")
    bounds = ("teacher", "copy", "truth")
    return [
        *(Row(name=name, method=name, scales=_SCALES.get(name)) for name in (*trained, *fitted)),
        *(Row(name=name, method=name, varies=False) for name in bounds),
    ]


def ablation_rows(config: TablesConfig) -> list[Row]:
    """The paper's ablations, all on equally many pairs and steps."""
    count = config.ablation_pairs
    return [
        Row(name="full", method="student", pairs=count),
        Row(name="no judge", method="student", source="unjudged", pairs=count),
        Row(name="no chain of thought", method="student", source="direct", pairs=count),
        Row(name="no captions, no language model", method="student", source="fixed", pairs=count),
        Row(name="reference weight 0", method="student", pairs=count, changes={"reference_weight": 0.0}),
        Row(name="reference weight 0.3", method="student", pairs=count, changes={"reference_weight": 0.3}),
        Row(name="ControlNet", method="controlnet", pairs=count, scales=_SCALES["controlnet"]),
        Row(name="IP-Adapter", method="ip-adapter-on-pairs", pairs=count, scales=_SCALES["ip-adapter-plus"]),
        Row(name="a quarter of the pairs", method="student", pairs=count // 4),
        Row(name="a sixteenth of the pairs", method="student", pairs=count // 16),
    ]


def flavour_rows(config: TablesConfig) -> list[Row]:
    """How a student may be shown the reference, on the same pairs that the world draws and in equally many steps."""
    count = config.ablation_pairs
    return [
        Row(name="canvas", method="student", source="drawn", pairs=count),
        Row(name="cached", method="student", source="drawn", pairs=count, changes={"flavour": "cached"}),
    ]


def budget_rows(config: TablesConfig) -> list[Row]:
    """From what the world can do to what the student does, one stage after the other."""
    count = config.ablation_pairs
    return [
        Row(name="truth", method="truth", varies=False),
        Row(name="truth through the autoencoder", method="truth-decoded", varies=False),
        Row(name="pairs that the world draws", method="student", source="drawn", pairs=count),
        Row(name="the teacher's, judged by tiny-dino", method="student", source="oracle", pairs=count),
        Row(name="the teacher's, the most alike by tiny-dino", method="student", source="alike", pairs=count),
        Row(name="the teacher's, judged by tiny-vlm", method="student", source="judged", pairs=count),
        Row(name="the teacher's, not judged", method="student", source="unjudged", pairs=count),
        Row(
            name="drawn in four times the steps",
            method="student",
            source="judged",
            pairs=count,
            steps=4 * config.sampling.steps,
        ),
    ]
