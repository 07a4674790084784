"""`dsd evaluate`: how well students keep identities and follow words, beside what bounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from dsd.baselines.protocol import Drawing, SubjectMethod

_DREAMBOOTH_RANK = 16


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What every table's methods are told."""

    base: str | None = None
    """The model that the students were made from, also the text-only teacher; read from the adapter when left out."""
    steps: int = 16
    """Denoising steps."""
    text_scale: float = 1.5
    """True guidance of students by the text; 1 is off."""
    image_scale: float = 1.5
    """True guidance of students by the picture; 1 is off."""
    teacher_guidance: float = 2.5
    """True guidance of the text-only teacher; 1 is off."""
    fitted: tuple[Literal["dreambooth", "dreambooth-lora"], ...] = ()
    """Methods to compare with that are fitted to each subject: minutes of work for every few subjects."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(Compared):
    """Draws held-out individuals of the world with students, the teacher and the bounds, and writes the table.

    Run the same command again to resume; pictures that are there are not drawn again.
    """

    adapter: tuple[str, ...] = ("embedded:tiny-student",)
    """The students: adapter folders, as training writes them. One is a row `student`, several go by their names."""
    subjects: int = 64
    """Held-out individuals, each known from one picture and asked for in four scenes."""
    out: Path = Path("runs/evaluation")
    """Folder for the pictures, the table (JSON, CSV, Markdown) and index.html."""


@dataclass(frozen=True, kw_only=True)
class DreamBench(Compared):
    """Draws DreamBench++ with a student, the text-only teacher and the copied reference, and writes the table.

    The samples lie as the benchmark's own scripts read them. Run the same command again to resume.
    """

    data: Path = tyro.MISSING
    """The benchmark's folder, with `images` and `captions`."""
    judge: str | None = None
    """Who scores: openai:MODEL@BASE_URL, replay:FILE or a folder; left out, pictures are drawn and not scored. It must
    have no part in curation."""
    adapter: str = "embedded:tiny-student"
    """The student: an adapter folder, as training writes it."""
    pictures: int = 1
    """Pictures for each prompt; the first one is scored."""
    repeats: int = 3
    """How often the judge is asked each question."""
    out: Path = Path("runs/dreambench")
    """Folder for samples, scores and the table."""


def variants() -> dict[str, tuple[str, Evaluate | DreamBench]]:
    return {
        "": ("", Evaluate()),
        "dreambench": ("the public benchmark DreamBench++, drop-in", DreamBench()),
    }


def plan(command: Evaluate | DreamBench) -> list[str]:
    if isinstance(command, DreamBench):
        scored = (
            f"have {command.judge} score each picture {command.repeats} times" if command.judge else "score nothing"
        )
        return [
            f"draw {command.pictures} picture(s) for each of nine prompts of the collections in {command.data} with "
            f"{command.adapter} and the text-only teacher",
            scored,
            f"write samples, scores and the table beside the published one to {command.out}",
        ]
    return [
        f"draw {command.subjects} held-out individuals x 4 prompts with {_names(command)}, the text-only teacher, "
        "the copied reference and the world itself",
        "measure identity, prompt following, diversity, copying and seconds, with 95 % bootstrap intervals",
        f"write the table and the page to {command.out}",
    ]


def run(command: Evaluate | DreamBench) -> None:
    if isinstance(command, DreamBench):
        _dreambench(command)
    else:
        _drawn_world(command)


def _drawn_world(command: Evaluate) -> None:
    from dsd.errors import UserError
    from dsd.evaluate import tables
    from dsd.evaluate.measure import EvaluateConfig, evaluate
    from dsd.evaluate.report import Report, render
    from dsd.files import make_folder, write_atomic
    from dsd.world.benchmark import DrawnBenchmark, Truth

    if not command.adapter or len(set(command.adapter)) < len(command.adapter):
        raise UserError(f"--adapter got {list(command.adapter)}, but must name one student or several different ones")
    out = make_folder(command.out)
    drawn = DrawnBenchmark(subjects=command.subjects)
    methods = [*_methods(command, command.adapter), Truth(drawn=drawn)]
    scores = evaluate(EvaluateConfig(), drawn.build(), methods, out)
    findings = tables.write(scores, out)
    report = Report(title="Evaluation", introduction=f"Student: {_names(command)}.", scores=scores)
    write_atomic(out / "index.html", render(report))
    print(tables.as_markdown(scores), end="")
    print(tables.claims_as_markdown(findings), end="")


def _dreambench(command: DreamBench) -> None:
    from dsd.chat.registry import load_chat
    from dsd.evaluate.dreambench import draw_samples, read_collections
    from dsd.evaluate.dreambench_judge import judge_samples
    from dsd.evaluate.dreambench_table import as_markdown, write
    from dsd.files import make_folder

    collections = read_collections(command.data)
    judge = None if command.judge is None else load_chat(command.judge)
    out = make_folder(command.out)
    scores = {}
    for method in _methods(command, (command.adapter,)):
        samples = draw_samples(collections, method, out, pictures=command.pictures)
        print(samples.path)
        if judge is not None:
            place = out / "scores" / samples.path.name
            scores[method.name] = judge_samples(collections, samples, judge, place, repeats=command.repeats)
    if judge is not None:
        write(scores, out, judge=f"{judge.name} {judge.revision}")
        print(as_markdown(scores), end="")


def _methods(command: Compared, adapters: Sequence[str]) -> list[SubjectMethod]:
    """The students, what is fitted to each subject, the text-only teacher, and the copied reference."""
    from dsd.backbones.adapter import load_metadata
    from dsd.baselines.copy import CopyReference
    from dsd.baselines.dreambooth import DreamBooth, Tuning
    from dsd.baselines.dsd_method import TwoFrameStudent
    from dsd.baselines.text_only import TextOnly
    from dsd.models import resolve

    metadata = load_metadata(resolve(adapters[0]))
    base = command.base or metadata.base
    drawing = Drawing(steps=command.steps, text_scale=command.text_scale, image_scale=command.image_scale)
    words = Drawing(
        size=metadata.frame_size or Drawing.size,
        steps=command.steps,
        true_guidance=command.teacher_guidance,
        max_sequence_length=metadata.max_sequence_length,
    )
    names = ["student"] if len(adapters) == 1 else adapters
    students = [TwoFrameStudent.load(base, a, drawing, name=n) for a, n in zip(adapters, names, strict=True)]
    ranks = {"dreambooth": 0, "dreambooth-lora": _DREAMBOOTH_RANK}
    fitted = [DreamBooth.load(base, words, Tuning(rank=ranks[name]), name=name) for name in command.fitted]
    return [*students, *fitted, TextOnly.load(base, words), CopyReference()]


def _names(command: Evaluate) -> str:
    return " and ".join(command.adapter)
