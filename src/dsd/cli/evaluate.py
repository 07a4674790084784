"""`dsd evaluate`: how well students keep identities and follow words; and the paper's tables."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from dsd.world.tables.config import TablesConfig, ablation_rows, budget_rows, main_rows, quick

if TYPE_CHECKING:
    from dsd.baselines.protocol import SubjectMethod


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What the methods of a comparison are told."""

    base: str | None = None
    """The model that the students were made from, also the text-only teacher; read from the adapter when left out."""
    methods: tuple[str, ...] = ()
    """Further methods, such as dreambooth, ip-adapter or controlnet=WEIGHTS. What is trained on pairs needs its weights
    (a folder or hub id), or --pairs to be trained on first; what is fitted to each subject takes seconds for each."""
    pairs: Path | None = None
    """Dataset folder, as `dsd curate` writes it, that further methods are trained on."""
    vision: str = "embedded:tiny-vlm"
    """Image encoder of IP-Adapter, such as openai/clip-vit-large-patch14."""
    faces: str | None = None
    """Face pack of InstantID; `dsd world train face` makes one for the drawn world."""
    captioner: str | None = "embedded:tiny-vlm"
    """Chat model that captions the references of methods that are fitted to them; None for none."""
    likeness: tuple[str, ...] = ()
    """Vision models whose mean cosine with the reference is a column, as COLUMN=MODEL: dino_i=facebook/dino-vits16,
    dinov2_i=facebook/dinov2-base. The drawn world has dino_i by tiny-dino without asking."""
    steps: int = 16
    """Denoising steps."""
    text_scale: float = 1.5
    """True guidance by the text of methods that see a picture; 1 is off."""
    image_scale: float = 1.5
    """True guidance by the picture, likewise; 1 is off."""
    teacher_guidance: float = 2.5
    """True guidance of methods that see none; 1 is off."""
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
    """Draws DreamBench++ with a student, the text-only teacher and the copied reference, and writes table and page.

    The samples lie as the benchmark's own scripts read them. Run the same command again to resume.
    """

    data: Path = tyro.MISSING
    """The benchmark's folder, with `images` and `captions`."""
    judge: str | None = None
    """Who scores: openai:MODEL@BASE_URL, replay:FILE or a folder; left out, pictures are drawn and not scored. It must
    have no part in curation."""
    agreement: str | None = None
    """CLIP for the columns clip_i and clip_t, such as openai/clip-vit-base-patch32."""
    adapter: str = "embedded:tiny-student"
    """The student: an adapter folder, as training writes it."""
    pictures: int = 1
    """Pictures for each prompt; the first one is scored."""
    repeats: int = 3
    """How often the judge is asked each question."""
    out: Path = Path("runs/dreambench")
    """Folder for samples, scores, the table (JSON, CSV, Markdown) and index.html."""


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


Command = Evaluate | DreamBench | Table
_ALL = "all"
_ROWS = {"main": main_rows, "ablations": ablation_rows, "budget": budget_rows}


def variants() -> dict[str, tuple[str, Command]]:
    return {
        "": ("", Evaluate()),
        "main": ("the paper's comparison with other methods", _of("main")),
        "ablations": ("the paper's ablations", _of("ablations")),
        "budget": ("how much identity each stage loses, and what the judge is worth", _of("budget")),
        _ALL: ("all three, one after the other", _of(_ALL)),
        "dreambench": ("the public benchmark DreamBench++, drop-in", DreamBench()),
    }


def plan(command: Command) -> list[str]:
    if isinstance(command, Table):
        return _plan_of_table(command)
    further = "".join(f", {method}" for method in command.methods)
    if isinstance(command, DreamBench):
        scored = (
            f"have {command.judge} score each picture {command.repeats} times" if command.judge else "score nothing"
        )
        return [
            f"draw {command.pictures} picture(s) for each of nine prompts of the collections in {command.data} with "
            f"{command.adapter}{further} and the text-only teacher",
            scored,
            f"write samples, scores and the table beside the published one to {command.out}",
        ]
    return [
        f"draw {command.subjects} held-out individuals x 4 prompts with {' and '.join(command.adapter)}{further}, the "
        "text-only teacher, the copied reference and the world itself",
        "measure identity, prompt following, diversity, copying and seconds, with 95 % bootstrap intervals",
        f"write the table and the page to {command.out}",
    ]


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


def run(command: Command) -> None:
    from dsd.log import quiet_libraries

    quiet_libraries()
    if isinstance(command, Table):
        _table(command)
    elif isinstance(command, DreamBench):
        _dreambench(command)
    else:
        _drawn_world(command)


def _of(table: str) -> Table:
    return Table(table=table, tables=TablesConfig())


def _table(command: Table) -> None:
    from dsd.evaluate import tables
    from dsd.world.tables.results import write_results
    from dsd.world.tables.table import make_table

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
    from dsd.evaluate.measure import EvaluateConfig, evaluate
    from dsd.evaluate.report import Report, render
    from dsd.files import make_folder, write_atomic
    from dsd.world.benchmark import DrawnBenchmark, Truth

    if not command.adapter or len(set(command.adapter)) < len(command.adapter):
        raise UserError(f"--adapter got {list(command.adapter)}, but must name one student or several different ones")
    out = make_folder(command.out)
    drawn = DrawnBenchmark(subjects=command.subjects)

    def methods() -> Iterator[SubjectMethod]:
        yield from _methods(command, command.adapter, out)
        yield Truth(drawn=drawn)

    config = EvaluateConfig()
    config = dataclasses.replace(config, likeness_encoders={**config.likeness_encoders, **_likeness(command)})
    scores = evaluate(config, drawn.build(), methods(), out)
    findings = tables.write(scores, out)
    introduction = f"Student: {' and '.join(command.adapter)}."
    report = Report(title="Evaluation", introduction=introduction, scores=scores, findings=findings)
    write_atomic(out / "index.html", render(report))
    print(tables.as_markdown(scores), end="")
    print(tables.claims_as_markdown(findings), end="")


def _dreambench(command: DreamBench) -> None:
    from dsd.chat.registry import load_chat
    from dsd.devices import default_device
    from dsd.evaluate.dreambench.judge import judge_samples
    from dsd.evaluate.dreambench.metrics import Encoders, measure
    from dsd.evaluate.dreambench.report import write
    from dsd.evaluate.dreambench.samples import draw_samples, read_collections
    from dsd.evaluate.dreambench.table import Row, as_markdown
    from dsd.evaluate.encoders import ImageEncoder, PictureTextEncoder
    from dsd.files import make_folder

    collections = read_collections(command.data)
    judge = None if command.judge is None else load_chat(command.judge)
    encoders = Encoders(
        likeness={column: ImageEncoder(model, default_device()) for column, model in _likeness(command).items()},
        agreement=None if command.agreement is None else PictureTextEncoder(command.agreement, default_device()),
    )
    out = make_folder(command.out)
    rows, samples = [], []
    for method in _methods(command, (command.adapter,), out):
        drawn = draw_samples(collections, method, out, pictures=command.pictures)
        print(drawn.path)
        place = out / "scores" / drawn.path.name
        scores = judge_samples(collections, drawn, judge, place, repeats=command.repeats) if judge is not None else ()
        rows.append(Row(measured=measure(method.name, collections, drawn, encoders), scores=scores))
        samples.append(drawn)
    found = write(rows, samples, collections, out, judge=None if judge is None else f"{judge.name} {judge.revision}")
    print(as_markdown(rows, found), end="")


def _likeness(command: Compared) -> dict[str, str]:
    """The models of ``--likeness`` by their columns."""
    from dsd.errors import UserError

    models = {}
    for given in command.likeness:
        column, _, model = given.partition("=")
        if not column or not model:
            raise UserError(f'--likeness got "{given}", but must be COLUMN=MODEL, such as dino_i=facebook/dino-vits16')
        models[column] = model
    return models


def _methods(command: Compared, adapters: Sequence[str], out: Path) -> Iterator[SubjectMethod]:
    """The students, the further methods, the text-only teacher, and the copied reference, one after the other."""
    from dsd.backbones.adapter import load_metadata
    from dsd.baselines import registry
    from dsd.baselines.protocol import Drawing
    from dsd.baselines.setting import Setting
    from dsd.data.pairs import PairRows
    from dsd.devices import default_device
    from dsd.models import resolve
    from dsd.train.config import TrainConfig

    for method in command.methods:  # before anything is drawn
        registry.entry_of(method.partition("=")[0])
    metadata = load_metadata(resolve(adapters[0]))
    base = command.base or metadata.base
    setting = Setting(
        name="",
        base=base,
        drawing=Drawing(
            size=metadata.frame_size or Drawing.size,
            max_sequence_length=metadata.max_sequence_length,
            steps=command.steps,
            text_scale=command.text_scale,
            image_scale=command.image_scale,
            true_guidance=command.teacher_guidance,
        ),
        data=() if command.pairs is None else PairRows(command.pairs, out / "methods" / "rows"),
        budget=TrainConfig(
            base=base,
            max_sequence_length=metadata.max_sequence_length,
            frame_size=metadata.frame_size,
            mixed_precision="bf16" if default_device() == "cuda" else "no",
        ),
        runs=out / "methods",
        vision=command.vision,
        faces=command.faces,
        captioner=command.captioner,
        tuned_for="tiny" if base.startswith("embedded:") else "flux",
    )
    names = ["student"] if len(adapters) == 1 else adapters
    for name, adapter in zip(names, adapters, strict=True):
        yield registry.build("student", dataclasses.replace(setting, name=name, weights=adapter))
    for method in (*command.methods, "teacher", "copy"):
        name, _, weights = method.partition("=")
        yield registry.build(name, dataclasses.replace(setting, name=name, weights=weights or None))
