"""What `dsd evaluate` offers on the drawn world: held-out individuals, and the paper's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dsd.cli.compared import Compared, likeness, methods
from dsd_world.recipe import TEACHER_GUIDANCE
from dsd_world.tables.config import TablesConfig, ablation_rows, budget_rows, main_rows, quick

if TYPE_CHECKING:
    from dsd.baselines.protocol import SubjectMethod


@dataclass(frozen=True, kw_only=True)
class Evaluate(Compared):
    """Draws held-out individuals of the world with students, the teacher and the bounds, and writes the table.

    Run the same command again to resume; pictures that are there are not drawn again.
    """

    adapter: tuple[str, ...] = ("embedded:tiny-student",)
    """The students: adapter folders, as training writes them. One is a row `student`, several go by their names."""
    recipe: str | None = "tiny"
    """Whose budget further methods are trained with."""
    vision: str | None = "embedded:tiny-vlm"
    """Image encoder of IP-Adapter."""
    captioner: str | None = "embedded:tiny-vlm"
    """Chat model that captions the references of methods that are fitted to them; None for none."""
    teacher_guidance: float = TEACHER_GUIDANCE
    """True guidance of methods that see none; 1 is off."""
    subjects: int = 64
    """Held-out individuals, each known from one picture and asked for in four scenes."""
    out: Path = Path("runs/evaluation")
    """Folder for the pictures, the table (JSON, CSV, Markdown) and index.html."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """Curates, trains, draws and measures everything that a table of the paper needs, in the drawn world.

    Takes hours. Run the same command again to resume; tables in one folder share what they are made of.
    """

    table: tyro.conf.Suppress[str]
    """Which."""
    tables: TablesConfig
    """Settings."""
    quick: bool = False
    """Every part in minutes, with numbers that mean little; other settings are then left as they are."""
    out: Path | None = None
    """Folder for everything; runs/tables, or runs/tables-quick."""
    results: Path | None = None
    """Document of all tables in the folder to write at the end; none when left out."""
    workers: int = 1
    """Processes that train, draw and measure; as many as there are cores is quickest. Seconds and memory are measured
    after them, when nothing else runs."""
    so_far: bool = False
    """Train and draw nothing: make the tables of the trainings that earlier starts have finished."""
    dry_run: bool = False
    """Print the resolved config and the plan, and do nothing."""

    @property
    def config(self) -> TablesConfig:
        return quick() if self.quick else self.tables

    @property
    def folder(self) -> Path:
        return self.out or Path("runs/tables-quick" if self.quick else "runs/tables")


Command = Evaluate | Table
_ALL = "all"
_ROWS = {"main": main_rows, "ablations": ablation_rows, "budget": budget_rows}


def variants() -> dict[str, tuple[str, Command]]:
    return {
        "": ("", Evaluate()),
        "main": ("the paper's comparison with other methods", _of("main")),
        "ablations": ("the paper's ablations", _of("ablations")),
        "budget": ("how much identity each stage loses, and what the judge is worth", _of("budget")),
        _ALL: ("all three, one after the other", _of(_ALL)),
    }


def plan(command: Command) -> list[str]:
    if isinstance(command, Table):
        return _plan_of_table(command)
    further = "".join(f", {method}" for method in command.methods)
    return [
        f"draw {command.subjects} held-out individuals x 4 prompts with {' and '.join(command.adapter)}{further}, the "
        "text-only teacher, the copied reference and the world itself",
        "measure identity, prompt following, diversity, copying and seconds, with 95 % bootstrap intervals",
        f"write the table and the page to {command.out}",
    ]


def run(command: Command) -> None:
    if isinstance(command, Table):
        _table(command)
    else:
        _drawn_world(command)


def _plan_of_table(command: Table) -> list[str]:
    results = [f"write {command.results}"] if command.results else []
    return [sentence for name in _names(command) for sentence in _plan_of(command, name)] + results


def _plan_of(command: Table, name: str) -> list[str]:
    config = command.config
    budget = config.train if name == "main" else config.ablation_train
    seeds = config.seeds if name == "main" else config.ablation_seeds
    rows = [row.name for row in _ROWS[name](config)]
    written = f"write table.json, table.csv, table.md and index.html to {command.folder / name}"
    if command.so_far:
        return [f"read what {command.folder} holds of {', '.join(rows)}", written]
    return [
        f"curate {config.curate.units * config.curate.unit_size:,} captions with {config.curate.teacher} and "
        f"{config.curate.judge}",
        f"train what is trained for {budget.steps:,} steps of {budget.batch_size} pairs, with seeds "
        f"{', '.join(map(str, seeds))}",
        f"draw {config.subjects} held-out individuals x 4 prompts with {', '.join(rows)}",
        written,
    ]


def _of(table: str) -> Table:
    return Table(table=table, tables=TablesConfig())


def _table(command: Table) -> None:
    from dsd.evaluate import tables
    from dsd_world.tables.results import write_results
    from dsd_world.tables.table import make_table

    for name in _names(command):
        scores, findings = make_table(name, command.config, command.folder, command.workers, so_far=command.so_far)
        print(tables.as_markdown(scores), end="")
        print(tables.claims_as_markdown(findings), end="")
    if command.results is not None:
        quick, so_far = " --quick" if command.quick else "", " --so-far" if command.so_far else ""
        words = f"dsd evaluate {command.table}{quick}{so_far}"
        write_results(command.folder, command.results, words)
        print(command.results)


def _names(command: Table) -> list[str]:
    return list(_ROWS) if command.table == _ALL else [command.table]


def _drawn_world(command: Evaluate) -> None:
    from dsd.errors import UserError
    from dsd.evaluate import tables
    from dsd.evaluate.measure import evaluate
    from dsd.evaluate.report import Report, render
    from dsd.files import make_folder, write_atomic
    from dsd_world.benchmark import MEASURES, DrawnBenchmark, Truth
    from dsd_world.fits import FITS

    if not command.adapter or len(set(command.adapter)) < len(command.adapter):
        raise UserError(f"--adapter got {list(command.adapter)}, but must name one student or several different ones")
    out = make_folder(command.out)
    drawn = DrawnBenchmark(subjects=command.subjects)

    def rows() -> Iterator[SubjectMethod]:
        yield from methods(command, command.adapter, out, FITS)
        yield Truth(drawn=drawn)

    config = MEASURES
    config = dataclasses.replace(config, likeness_encoders={**config.likeness_encoders, **likeness(command)})
    scores = evaluate(config, drawn.build(), rows(), out)
    findings = tables.write(scores, out)
    introduction = f"Student: {' and '.join(command.adapter)}."
    report = Report(title="Evaluation", introduction=introduction, scores=scores, findings=findings)
    write_atomic(out / "index.html", render(report))
    print(tables.as_markdown(scores), end="")
    print(tables.claims_as_markdown(findings), end="")
