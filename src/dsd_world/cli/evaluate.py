"""What `dsd evaluate` offers on the drawn world: held-out individuals, and the paper's tables."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from dsd.cli.compared import methods
from dsd.cli.evaluate import Evaluate, evaluate, evaluate_of, plan_of_measuring, rows_of
from dsd.limits import require_within
from dsd_world.recipe import tiny
from dsd_world.tables.config import TablesConfig, ablation_rows, budget_rows, flavour_rows, main_rows, quick


@dataclass(frozen=True, kw_only=True)
class EvaluateInWorld(Evaluate):
    """Draws held-out individuals of the world, or your own subjects, with students, the teacher and the bounds.

    Run the same command again to resume; pictures that are there are not drawn again.
    """

    subjects: int = 64
    """Held-out individuals, each known from one picture and asked for in four scenes; without --data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("subjects", self.subjects, 1)


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

    def __post_init__(self) -> None:
        require_within("workers", self.workers, 1)

    @property
    def config(self) -> TablesConfig:
        return quick() if self.quick else self.tables

    @property
    def folder(self) -> Path:
        return self.out or Path("runs/tables-quick" if self.quick else "runs/tables")


Command = EvaluateInWorld | Table
_ALL = "all"
_PAPER = ("main", "ablations", "budget")
_ROWS = {"main": main_rows, "ablations": ablation_rows, "flavours": flavour_rows, "budget": budget_rows}


def variants() -> dict[str, tuple[str, Command]]:
    recipe = tiny()
    given = dataclasses.asdict(evaluate_of("tiny", recipe)) | {"adapter": (recipe.adapter,), "data": None}
    command = EvaluateInWorld(**given)
    return {
        "": ("", dataclasses.replace(command, out=Path("runs/evaluation"))),
        "tiny": (recipe.summary, command),
        "main": ("the paper's comparison with other methods", _of("main")),
        "ablations": ("the paper's ablations", _of("ablations")),
        "flavours": ("how a student is shown the reference: on the canvas, or cached", _of("flavours")),
        "budget": ("how much identity each stage loses, and what the judge is worth", _of("budget")),
        _ALL: ("the paper's three, one after the other", _of(_ALL)),
    }


def plan(command: Command) -> list[str]:
    if isinstance(command, Table):
        return _plan_of_table(command)
    asked = (
        f"{command.subjects} held-out individuals x 4 prompts" if command.data is None else f"those of {command.data}"
    )
    return [
        f"draw {asked} with {rows_of(command)}" + ("" if command.data else ", and the world itself"),
        *plan_of_measuring(command),
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
    made = _ROWS[name](config)
    rows = [row.name for row in made]
    curated = f"curate {config.curate.units * config.curate.unit_size:,} captions with {config.curate.teacher} and "
    curated += config.curate.judge
    drawn = f"draw {config.ablation_pairs:,} pairs of the world"
    written = f"write table.json, table.csv, table.md and index.html to {command.folder / name}"
    if command.so_far:
        return [f"read what {command.folder} holds of {', '.join(rows)}", written]
    return [
        drawn if all(row.source == "drawn" for row in made) else curated,
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
    return list(_PAPER) if command.table == _ALL else [command.table]


def _drawn_world(command: EvaluateInWorld) -> None:
    from dsd.evaluate import compare, tables
    from dsd.files import make_folder
    from dsd_world.benchmark import DrawnBenchmark, Truth
    from dsd_world.fits import FITS

    if command.data is not None:
        evaluate(command, fits=FITS)
        return
    out = make_folder(command.out)
    drawn = DrawnBenchmark(subjects=command.subjects, repeats=command.pictures)
    rows = methods(command, command.adapter, out, FITS)
    rows.append(compare.Competitor(name="truth", build=partial(Truth, drawn=drawn)))
    compared = compare.compare(command, drawn.build(), rows, out)
    words = f"Student: {' and '.join(command.adapter)}."
    findings = compare.write(compared, out, name="main", title="Evaluation", introduction=words)
    print(tables.as_markdown(compared.scores), end="")
    print(tables.claims_as_markdown(findings), end="")
