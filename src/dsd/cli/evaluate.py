"""`dsd evaluate RECIPE`: how well students keep identities and follow words, on your subjects or on a benchmark."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from dsd.cli.compared import Compared, methods
from dsd.cli.parse import Verb
from dsd.curate.tasks.registry import DEFAULT, task_of
from dsd.limits import MOST_PICTURES, require_within
from dsd.plugins import added
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import all_recipes, first

if TYPE_CHECKING:
    from dsd.evaluate.benchmark import Benchmark


@dataclass(frozen=True, kw_only=True)
class Evaluate(Compared):
    """Draws your subjects with students, the text-only teacher and the copied reference, and measures the pictures.

    Run the same command again to resume; pictures that are there are not drawn again.
    """

    data: Path | None = tyro.MISSING
    """Folder of your subjects: a picture each, a folder of pictures each (methods are given the first by name), or
    metadata.jsonl or metadata.csv with reference, subject and prompts."""
    prompts: Path | None = None
    """File of prompts, a line each, for the subjects that have none of their own; {subject} stands for what it is
    called. Left out, prompts.txt in the folder."""
    writer: str | None = None
    """Chat model that sees each subject that has no prompts and writes some: openai:MODEL@BASE_URL or a folder."""
    write: int = 8
    """How many it writes for each."""
    adapter: tuple[str, ...]
    """The students: adapter folders, as training writes them. One is a row `student`, several go by their names."""
    pictures: int = 2
    """Pictures for each prompt; the first one is measured, all of them for diversity."""
    out: Path
    """Folder for the pictures, the table (JSON, CSV, Markdown) and index.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("write", self.write, 1)
        require_within("pictures", self.pictures, 1, MOST_PICTURES)


@dataclass(frozen=True, kw_only=True)
class DreamBench(Compared):
    """Draws DreamBench++ with a student, the text-only teacher and the copied reference, and writes table and page.

    The samples lie as the benchmark's own scripts read them. Run the same command again to resume.
    """

    data: Path = tyro.MISSING
    """The benchmark's folder, with `images` and `captions`."""
    adapter: str
    """The student: an adapter folder, as training writes it."""
    pictures: int = 1
    """Pictures for each prompt; the first one is measured, all of them for diversity."""
    out: Path = Path("runs/dreambench")
    """Folder for samples, scores, the table (JSON, CSV, Markdown) and index.html."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_within("pictures", self.pictures, 1, MOST_PICTURES)


def variants() -> dict[str, tuple[str, Any]]:
    own = {name: (recipe.summary, evaluate_of(name, recipe)) for name, recipe in all_recipes().items()}
    more = [variants for module in _added() for variants in module.variants().items()]
    dreambench = DreamBench(adapter=first().adapter)
    return {**own, **dict(more), "dreambench": ("the public benchmark DreamBench++, drop-in", dreambench)}


def evaluate_of(name: str, recipe: Recipe) -> Evaluate:
    """The command of a recipe."""
    out, measures = Path("runs") / name / "evaluation", recipe.evaluate
    if not measures.metrics and recipe.curate.task != DEFAULT:
        measures = replace(measures, metrics=task_of(recipe.curate.task).metrics)
    return Evaluate(recipe=name, adapter=(recipe.adapter,), out=out, **asdict(measures))


def plan(command: Any) -> list[str]:
    if type(command) not in (Evaluate, DreamBench):
        return _owner(command).plan(command)
    return [
        f"draw {command.pictures} picture(s) for each prompt of the subjects in {command.data} with {rows_of(command)}",
        *plan_of_measuring(command),
        f"write pictures, table and page to {command.out}",
    ]


def rows_of(command: Evaluate | DreamBench) -> str:
    """The methods, in words."""
    students = command.adapter if isinstance(command.adapter, tuple) else (command.adapter,)
    return ", ".join((*students, *command.methods, "the text-only teacher")) + " and the copied reference"


def plan_of_measuring(command: Compared) -> list[str]:
    """What measures, in words."""
    named = {"identity": command.identity, "prompt following": command.agreement, **command.likeness_models}
    measured = ", ".join(f"{what} by {model}" for what, model in named.items() if model)
    judged = f"have {command.judge} score each picture {command.repeats} times" if command.judge else "have no judge"
    return [f"measure {measured or 'seconds and memory alone'}, with 95 % bootstrap intervals", judged]


def run(command: Any) -> None:
    from dsd.log import quiet_libraries

    quiet_libraries()
    if isinstance(command, DreamBench):
        _dreambench(command)
    elif type(command) is Evaluate:
        evaluate(command)
    else:
        _owner(command).run(command)


def evaluate(command: Evaluate, **more: Any) -> None:
    """Evaluates on the user's own subjects.

    Args:
        command: what was given.
        more: of `dsd.cli.compared.methods`.
    """
    from dsd.errors import UserError
    from dsd.evaluate import compare, tables
    from dsd.files import make_folder, require_outside

    if command.data is None:
        raise UserError("--data is missing; give the folder of your subjects")
    require_outside(command.out, command.data, "the folder of your subjects")
    benchmark = _own_subjects(command, command.data)
    out = make_folder(command.out)
    compared = compare.compare(command, benchmark, methods(command, command.adapter, out, **more), out)
    words = f"{len(benchmark.subjects)} subjects of {command.data}. Student: {' and '.join(command.adapter)}."
    findings = compare.write(compared, out, name="own subjects", title="Evaluation", introduction=words)
    print(tables.as_markdown(compared.scores), end="")
    print(tables.claims_as_markdown(findings), end="")


def _own_subjects(command: Evaluate, data: Path) -> Benchmark:
    from dsd.chat.registry import load_chat
    from dsd.evaluate.benchmarks import folder
    from dsd.files import make_folder

    benchmark = folder.read(data, command.prompts, pictures=command.pictures)
    if command.writer is not None and not all(subject.prompts for subject in benchmark.subjects):
        place = make_folder(command.out) / "prompts"
        benchmark = folder.with_prompts(benchmark, load_chat(command.writer), command.write, place)
    return folder.require_prompts(benchmark, data)


def _added() -> list[Verb]:
    """Modules of other packages that evaluate on what is theirs."""
    return [point.load() for point in added("evaluations").values()]


def _owner(command: Any) -> Verb:
    """The module that a command is of."""
    return next(m for m in _added() if type(command) in {type(default) for _, default in m.variants().values()})


def _dreambench(command: DreamBench) -> None:
    from dsd.evaluate import compare, tables
    from dsd.evaluate.benchmarks import dreambench
    from dsd.files import make_folder, require_outside

    require_outside(command.out, command.data, "the benchmark's folder")
    benchmark = dreambench.read(command.data, command.pictures)
    out = make_folder(command.out)
    compared = compare.compare(command, benchmark, methods(command, (command.adapter,), out), out)
    for place in compared.places.values():
        print(dreambench.write_samples(benchmark, place, out))
    words = f"{len(benchmark.subjects)} collections x {dreambench.PROMPTS} prompts; judge: {command.judge or 'none'}."
    findings = compare.write(
        compared,
        out,
        name="dreambench",
        title="DreamBench++",
        introduction=words,
        sections=[dreambench.quoted()] if command.judge else [],
        more=dreambench.quoted_as_markdown() if command.judge else "",
    )
    print(tables.as_markdown(compared.scores), end="")
    print(dreambench.quoted_as_markdown() if command.judge else "", end="")
    print(tables.claims_as_markdown(findings), end="")
