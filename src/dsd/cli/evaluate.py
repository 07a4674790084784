"""`dsd evaluate`: how well students keep identities and follow words, beside what bounds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from dsd.baselines.protocol import SubjectMethod
    from dsd.world.benchmark import DrawnBenchmark


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Draws held-out individuals of the world with students, the teacher and the bounds, and writes the table.

    Run the same command again to resume; pictures that are there are not drawn again.
    """

    adapter: tuple[str, ...] = ("embedded:tiny-student",)
    """The students: adapter folders, as training writes them. One is a row `student`, several go by their names."""
    base: str | None = None
    """The model they were made from, which is also the text-only teacher; read from the first when left out."""
    subjects: int = 64
    """Held-out individuals, each known from one picture and asked for in four scenes."""
    steps: int = 16
    """Denoising steps of the student and of the teacher."""
    text_scale: float = 1.5
    """True guidance of the student by the text; 1 is off."""
    image_scale: float = 1.5
    """True guidance of the student by the picture; 1 is off."""
    teacher_guidance: float = 2.5
    """True guidance of the text-only teacher; 1 is off."""
    out: Path = Path("runs/evaluation")
    """Folder for the pictures, the table (JSON, CSV, Markdown) and index.html."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


@dataclass(frozen=True, kw_only=True)
class DreamBench:
    """Draws DreamBench++ with a student and the text-only teacher, has a judge score it, and writes the table.

    The samples lie as the benchmark's own scripts read them. Run the same command again to resume.
    """

    data: Path = tyro.MISSING
    """The benchmark's folder, with `images` and `captions`."""
    judge: str | None = None
    """Who scores: openai:MODEL@BASE_URL, replay:FILE or a folder; left out, pictures are drawn and not scored. It must
    have no part in curation."""
    adapter: str = "embedded:tiny-student"
    """The student: an adapter folder, as training writes it."""
    base: str | None = None
    """The model it was made from, which is also the text-only teacher; read from the adapter when left out."""
    pictures: int = 1
    """Pictures for each prompt; the first one is scored."""
    repeats: int = 3
    """How often the judge is asked each question."""
    steps: int = 16
    """Denoising steps."""
    text_scale: float = 1.5
    """True guidance of the student by the text; 1 is off."""
    image_scale: float = 1.5
    """True guidance of the student by the picture; 1 is off."""
    teacher_guidance: float = 2.5
    """True guidance of the text-only teacher; 1 is off."""
    out: Path = Path("runs/dreambench")
    """Folder for samples, scores and the table."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


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
    from dsd.backbones.adapter import load_metadata
    from dsd.errors import UserError
    from dsd.evaluate import tables
    from dsd.evaluate.measure import EvaluateConfig, evaluate
    from dsd.evaluate.report import Report, render
    from dsd.files import make_folder, write_atomic
    from dsd.models import resolve
    from dsd.world.benchmark import DrawnBenchmark

    if not command.adapter or len(set(command.adapter)) < len(command.adapter):
        raise UserError(f"--adapter got {list(command.adapter)}, but must name one student or several different ones")
    out = make_folder(command.out)
    drawn = DrawnBenchmark(subjects=command.subjects)
    base = command.base or load_metadata(resolve(command.adapter[0])).base
    scores = evaluate(EvaluateConfig(), drawn.build(), _methods(command, drawn, base), out)
    tables.write(scores, out)
    report = Report(title="Evaluation", introduction=f"Student: {_names(command)} on {base}.", scores=scores)
    write_atomic(out / "index.html", render(report))
    print(tables.as_markdown(scores), end="")


def _dreambench(command: DreamBench) -> None:
    from dsd.backbones.adapter import load_metadata
    from dsd.baselines.copy import CopyReference
    from dsd.baselines.dsd_method import Drawing, TwoFrameStudent
    from dsd.baselines.text_only import TextOnly, TextOnlyDrawing
    from dsd.chat.registry import load_chat
    from dsd.evaluate.dreambench import draw_samples, read_collections
    from dsd.evaluate.dreambench_judge import judge_samples
    from dsd.evaluate.dreambench_table import as_markdown, write
    from dsd.files import make_folder
    from dsd.models import resolve

    collections = read_collections(command.data)
    judge = None if command.judge is None else load_chat(command.judge)
    out = make_folder(command.out)
    metadata = load_metadata(resolve(command.adapter))
    base = command.base or metadata.base
    drawing = Drawing(steps=command.steps, text_scale=command.text_scale, image_scale=command.image_scale)
    student = TwoFrameStudent.load(base, command.adapter, drawing)
    words = TextOnlyDrawing(
        size=metadata.frame_size or TextOnlyDrawing.size,
        steps=command.steps,
        true_guidance=command.teacher_guidance,
        max_sequence_length=metadata.max_sequence_length,
    )
    scores = {}
    for method in (student, TextOnly.load(base, words), CopyReference()):
        samples = draw_samples(collections, method, out, pictures=command.pictures)
        print(samples.path)
        if judge is not None:
            place = out / "scores" / samples.path.name
            scores[method.name] = judge_samples(collections, samples, judge, place, repeats=command.repeats)
    if judge is not None:
        write(scores, out, judge=f"{judge.name} {judge.revision}")
        print(as_markdown(scores), end="")


def _methods(command: Evaluate, drawn: DrawnBenchmark, base: str) -> list[SubjectMethod]:
    from dsd.baselines.copy import CopyReference
    from dsd.baselines.dsd_method import Drawing, TwoFrameStudent
    from dsd.baselines.text_only import TextOnly, TextOnlyDrawing
    from dsd.world.benchmark import Truth
    from dsd.world.captions import PANEL_TEXT_TOKENS

    drawing = Drawing(steps=command.steps, text_scale=command.text_scale, image_scale=command.image_scale)
    words = TextOnlyDrawing(
        steps=command.steps, true_guidance=command.teacher_guidance, max_sequence_length=PANEL_TEXT_TOKENS
    )
    names = ["student"] if len(command.adapter) == 1 else command.adapter
    students = [TwoFrameStudent.load(base, a, drawing, name=n) for a, n in zip(command.adapter, names, strict=True)]
    return [
        *students,
        TextOnly.load(base, words),
        CopyReference(),
        Truth(drawn=drawn),
    ]


def _names(command: Evaluate) -> str:
    return " and ".join(command.adapter)
