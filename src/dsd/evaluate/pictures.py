"""Lets methods draw a benchmark, one file a picture, so that an interrupted evaluation repeats none."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsd.baselines.protocol import Request, SubjectMethod
from dsd.config import from_json, to_json
from dsd.evaluate import memory
from dsd.evaluate.benchmark import Benchmark
from dsd.files import write_atomic
from dsd.images import load_image
from dsd.log import progress

_SECONDS, _PEAK = "seconds", "peak_mib"  # the notes in a picture's file that say what it cost
_PREPARED = "prepared.json"
_PICTURES_AT_ONCE = 32
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Costs:
    """What drawing took, by the table's columns.

    Attributes:
        seconds_per_image: for each subject, wall-clock seconds a picture, without preparing.
        prepare_seconds: for each subject, wall-clock seconds of test-time work before its first picture.
        peak_mib: for each subject, the most memory that preparing and drawing took, in MiB: of the GPU where there is
            one, else of the whole process.
    """

    seconds_per_image: list[float]
    prepare_seconds: list[float]
    peak_mib: list[float]

    def columns(self) -> dict[str, list[float]]:
        """The columns by name."""
        return asdict(self)


COSTS = tuple(field.name for field in fields(Costs))
"""The columns of what drawing took."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """All pictures of a method.

    Attributes:
        pictures: for each subject its prompts in order, then the repeats of the first prompt.
        costs: what they took.
    """

    pictures: list[list[Image.Image]]
    costs: Costs


def draw(benchmark: Benchmark, method: SubjectMethod, folder: Path) -> Drawn:
    """Has a method draw everything that a benchmark asks for; what lies in the folder already is not drawn again.

    Args:
        benchmark: what to draw.
        method: who draws.
        folder: gets ``<benchmark>/<method>-<fingerprint>/<subject>/``.
    """
    place = place_of(benchmark, method, folder)
    requests = [benchmark.requests(n) for n in range(len(benchmark.subjects))]
    with progress(description=f"drawing: {method.name}", total=len(requests)) as bar:
        for some in chunks(requests, method.subjects_at_once):
            flat = [request for of_subject in some for request in of_subject]
            _draw_missing(method, [r for r in flat if not _path(place, r).exists()], place)
            bar.advance(len(some))
    read = [[_read(_path(place, request)) for request in of_subject] for of_subject in requests]
    prepared = [_prepared(place / of_subject[0].subject_id) for of_subject in requests]
    return Drawn(
        pictures=[[file.picture for file in of_subject] for of_subject in read],
        costs=_costs(prepared, read),
    )


def place_of(benchmark: Benchmark, method: SubjectMethod, folder: Path) -> Path:
    """Where `draw` puts a method's pictures, in the folder that it is given."""
    return folder / file_name(benchmark.name) / file_name(f"{method.name}-{method.fingerprint}")


def picture_of(place: Path, request: Request) -> Image.Image:
    """A picture that `draw` has drawn, from the place of its method."""
    return _read(_path(place, request)).picture


def file_name(text: str) -> str:
    """Text as a file name: everything but letters, digits, dots, dashes and underscores becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive parts of at most ``size`` items."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture and what it cost.

    Attributes:
        picture: as drawn.
        seconds: wall clock, its share of the batch's.
        peak_mib: most memory while it was drawn; see `dsd.evaluate.memory`.
    """

    picture: Image.Image
    seconds: float
    peak_mib: float


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What test-time work cost.

    Attributes:
        seconds: wall clock a subject.
        peak_mib: most memory meanwhile; see `dsd.evaluate.memory`.
    """

    seconds: float
    peak_mib: float


def prepare(method: SubjectMethod, requests: Sequence[Request]) -> Prepared:
    """Prepares a method for the subjects of some requests."""
    with memory.Peak() as peak:
        started = time.perf_counter()
        method.prepare(requests)
        seconds = (time.perf_counter() - started) / len({request.subject_id for request in requests})
    return Prepared(seconds=seconds, peak_mib=peak.mib)


def as_drawn(method: SubjectMethod, requests: Sequence[Request]) -> Iterator[tuple[Request, Picture]]:
    """Each request with its picture, a few at a time, to be saved at once."""
    for some in chunks(requests, _PICTURES_AT_ONCE):
        with memory.Peak() as peak:
            started = time.perf_counter()
            pictures = method.generate(some)
            seconds = (time.perf_counter() - started) / len(some)
        for request, picture in zip(some, pictures, strict=True):
            yield request, Picture(picture=picture, seconds=seconds, peak_mib=peak.mib)


def costs(benchmark: Benchmark, method: SubjectMethod, subjects: int) -> Costs:
    """What a method costs for some subjects, one after the other, when nothing else runs; no picture is kept.

    Args:
        benchmark: whose first subject only warms up; the next ones are measured.
        method: who draws.
        subjects: to measure.
    """
    prepared, drawn = [], []
    for number in range(subjects + 1):
        requests = benchmark.requests(number)
        prepared.append(prepare(method, requests))
        drawn.append([picture for _, picture in as_drawn(method, requests)])
    return _costs(prepared[1:], drawn[1:])


def _costs(prepared: Sequence[Prepared], drawn: Sequence[Sequence[Picture]]) -> Costs:
    return Costs(
        seconds_per_image=[sum(picture.seconds for picture in of_subject) / len(of_subject) for of_subject in drawn],
        prepare_seconds=[cost.seconds for cost in prepared],
        peak_mib=[
            max([cost.peak_mib, *(picture.peak_mib for picture in of_subject)])
            for cost, of_subject in zip(prepared, drawn, strict=True)
        ],
    )


def _draw_missing(method: SubjectMethod, missing: Sequence[Request], place: Path) -> None:
    """Prepares the method for the subjects that lack pictures, and saves each picture as soon as it is there."""
    if not missing:
        return
    prepared = prepare(method, missing)
    for subject in {request.subject_id for request in missing}:
        write_atomic(place / subject / _PREPARED, to_json(prepared))
    for request, drawn in as_drawn(method, missing):
        write_atomic(_path(place, request), _encoded(drawn))


def _prepared(folder: Path) -> Prepared:
    return from_json(Prepared, (folder / _PREPARED).read_text())


def _encoded(drawn: Picture) -> bytes:
    notes, file = PngInfo(), io.BytesIO()
    notes.add_text(_SECONDS, f"{drawn.seconds:.6g}")
    notes.add_text(_PEAK, f"{drawn.peak_mib:.6g}")
    drawn.picture.save(file, format="PNG", pnginfo=notes)
    return file.getvalue()


def _read(path: Path) -> Picture:
    with Image.open(path) as file:
        picture = load_image(file)
        return Picture(picture=picture, seconds=float(file.info[_SECONDS]), peak_mib=float(file.info[_PEAK]))


def _path(place: Path, request: Request) -> Path:
    return place / request.subject_id / f"prompt{request.prompt_index}-{request.repeat}-seed{request.seed}.png"
