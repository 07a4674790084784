"""`dsd evaluate`: how well students keep identities and follow words, beside what bounds them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

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
    image_scale: float = 1.0
    """True guidance of the student by the picture; 1 is off."""
    teacher_guidance: float = 2.5
    """True guidance of the text-only teacher; 1 is off."""
    out: Path = Path("runs/evaluation")
    """Folder for the pictures, the table (JSON, CSV, Markdown) and index.html."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""


def variants() -> dict[str, tuple[str, Evaluate]]:
    return {"": ("", Evaluate())}


def plan(command: Evaluate) -> list[str]:
    return [
        f"draw {command.subjects} held-out individuals x 4 prompts with {_names(command)}, the text-only teacher, "
        "the copied reference and the world itself",
        "measure identity, prompt following, diversity, copying and seconds, with 95 % bootstrap intervals",
        f"write the table and the page to {command.out}",
    ]


def run(command: Evaluate) -> None:
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
