"""Has methods draw a benchmark, measures the pictures, and writes the table and its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dsd.baselines.faces import Faces
from dsd.baselines.protocol import SubjectMethod
from dsd.chat.registry import load_chat
from dsd.config import did_you_mean
from dsd.devices import default_device
from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.errors import UserError
from dsd.evaluate import pictures, tables
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.claims import JUDGED, PAPER, Finding
from dsd.evaluate.config import EvaluateConfig
from dsd.evaluate.judge import Judge
from dsd.evaluate.measure import Ruler
from dsd.evaluate.metrics.protocol import Bench
from dsd.evaluate.metrics.registry import METRICS
from dsd.evaluate.report import Report, Section, SheetRow, render
from dsd.evaluate.scores import Scores
from dsd.evaluate.workers import apart
from dsd.files import write_atomic
from dsd.models import resolve, revision_or_name

PICTURES, JUDGED_BY = "pictures", "scores"
"""Folders of what was drawn, and of what a judge said of it."""
_SHEET_ROWS = 12


@dataclass(frozen=True, kw_only=True)
class Competitor:
    """A row of the table before its method is there.

    Attributes:
        name: of the row.
        build: makes the method; can be pickled, where it is to be made in a process of its own.
        trained: whether making it may train it first.
    """

    name: str
    build: Callable[[], SubjectMethod]
    trained: bool = False


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What was compared.

    Attributes:
        benchmark: that was drawn.
        places: of each method's pictures, by the row.
        scores: the rows.
        models: revisions of what measured, by what it measured.
    """

    benchmark: Benchmark
    places: Mapping[str, Path]
    scores: list[Scores]
    models: Mapping[str, str] = field(default_factory=dict)


def compare(config: EvaluateConfig, benchmark: Benchmark, rows: Sequence[Competitor], out: Path) -> Compared:
    """Has every method draw the benchmark and measures the pictures. Run again to go on after an interruption.

    Args:
        config: what measures.
        benchmark: held-out subjects.
        rows: the methods.
        out: gets ``pictures/``, and ``scores/`` where a judge is asked.

    Methods that draw apart start further processes; a script that calls this guards its start with
    ``if __name__ == "__main__"``.
    """
    _find(config)
    places = {row.name: drawn(row, benchmark, out, config.apart) for row in rows}
    ruler = Ruler(bench_of(config, benchmark, out))
    scores = [ruler.measure(name, pictures.read(benchmark, place)) for name, place in places.items()]
    return Compared(benchmark=benchmark, places=places, scores=scores, models=_models(config, ruler.bench))


def drawn(row: Competitor, benchmark: Benchmark, out: Path, by_itself: bool) -> Path:
    """Has a method draw a benchmark, where it has not yet, and gives the folder of the pictures.

    Args:
        row: the method.
        benchmark: to draw.
        out: gets ``pictures/``.
        by_itself: whether it draws in a process of its own.
    """
    if not by_itself:
        return pictures.draw(benchmark, row.build(), out / PICTURES)
    if row.trained:
        apart(_build, row.build)
    return apart(_draw, row.build, benchmark, out / PICTURES)


def bench_of(config: EvaluateConfig, benchmark: Benchmark, out: Path, faces: Faces | None = None) -> Bench:
    """Loads what measures on a benchmark, on a GPU when there is one.

    Args:
        config: what measures; without a model for identity, the first of likeness tells diversity.
        benchmark: held-out subjects.
        out: gets ``scores/``, where a judge is asked.
        faces: finds faces, to measure their identity apart.
    """
    device = default_device()
    encoders = {name: ImageEncoder(name, device) for name in _image_encoders(config)}
    likeness = {column: encoders[name] for column, name in config.likeness_models.items()}
    identity = encoders[config.identity] if config.identity else next(iter(likeness.values()), None)
    return Bench(
        benchmark=benchmark,
        identity=identity,
        agreement=PictureTextEncoder(config.agreement, device) if config.agreement else None,
        likeness=likeness,
        faces=faces,
        judge=Judge(load_chat(config.judge), out / JUDGED_BY, config.repeats) if config.judge else None,
        shown=config.metrics,
    )


def write(
    compared: Compared,
    out: Path,
    *,
    name: str,
    title: str,
    introduction: str,
    sections: Sequence[Section] = (),
    more: str = "",
) -> list[Finding]:
    """Writes ``table.json``, ``table.csv``, ``table.md``, ``subjects.json`` and ``index.html``.

    Args:
        compared: what to write.
        out: to write to.
        name: of the table.
        title: of the page.
        introduction: a sentence below it.
        sections: further parts of the page.
        more: Markdown that ``table.md`` ends with.

    Returns:
        What became of the paper's claims.
    """
    findings = tables.write(compared.scores, out, name, (*PAPER, *JUDGED), compared.models, more)
    page = Report(
        title=title,
        introduction=introduction,
        sheet=sheet(compared.benchmark, compared.places),
        scores=compared.scores,
        findings=findings,
        sections=sections,
        settings=compared.models,
    )
    write_atomic(out / "index.html", render(page))
    return findings


def sheet(benchmark: Benchmark, places: Mapping[str, Path]) -> list[SheetRow]:
    """A prompt of each of some subjects, spread over all of them, drawn by every method.

    Args:
        benchmark: that was drawn.
        places: of each method's pictures, by the row.
    """
    rows = []
    step = max(1, len(benchmark.subjects) // _SHEET_ROWS)
    for number in range(0, len(benchmark.subjects), step)[:_SHEET_ROWS]:
        subject = benchmark.subjects[number]
        prompt = number // step % len(subject.prompts)
        request = benchmark.requests(number)[prompt]
        shown = {name: pictures.picture_of(place, request) for name, place in places.items()}
        rows.append(SheetRow(prompt=subject.prompts[prompt], pictures={"reference": subject.reference, **shown}))
    return rows


def _find(config: EvaluateConfig) -> None:
    """Refuses what cannot measure before anything is drawn; no encoder is kept meanwhile."""
    for name in config.metrics:
        if name not in METRICS:
            raise UserError(f'there is no metric "{name}"; {did_you_mean(name, METRICS)}')
    for name in _image_encoders(config):
        ImageEncoder(name)
    if config.agreement:
        PictureTextEncoder(config.agreement)
    if config.judge is not None:
        (load_chat if config.judge.startswith(("openai:", "replay:")) else resolve)(config.judge)


def _image_encoders(config: EvaluateConfig) -> set[str]:
    """Names of the vision models; one that serves identity and likeness sees each picture once."""
    return {*filter(None, (config.identity,)), *config.likeness_models.values()}


def _build(build: Callable[[], SubjectMethod]) -> None:
    build()


def _draw(build: Callable[[], SubjectMethod], benchmark: Benchmark, folder: Path) -> Path:
    return pictures.draw(benchmark, build(), folder, memory=True)


def _models(config: EvaluateConfig, bench: Bench) -> dict[str, str]:
    named = {"identity": config.identity, "agreement": config.agreement, **config.likeness_models}
    models = {what: f"{name} {revision_or_name(name)}" for what, name in named.items() if name}
    return (
        models if bench.judge is None else models | {"judge": f"{bench.judge.model.name} {bench.judge.model.revision}"}
    )
