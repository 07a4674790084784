"""Lets methods draw a benchmark, a file a picture with what it cost, so that an interrupted evaluation repeats none."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsd.baselines.protocol import Request, SubjectMethod
from dsd.config import from_json, to_json
from dsd.evaluate import memory
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.seen import Drawn, Pictures
from dsd.files import write_atomic
from dsd.images import load_image
from dsd.log import progress

_SECONDS, _PEAK = "seconds", "peak_mib"  # the notes in a picture's file that say what it cost
_PREPARED = "prepared.json"
_PICTURES_AT_ONCE = 32
T = TypeVar("T")


def draw(benchmark: Benchmark, method: SubjectMethod, folder: Path, *, memory: bool = False) -> Path:
    """Has a method draw everything that a benchmark asks for; what lies in the folder already is not drawn again.

    Args:
        benchmark: what to draw.
        method: who draws.
        folder: gets ``<benchmark>/<method>-<fingerprint>/<subject>/``.
        memory: whether what this process takes tells of the method alone, and is noted.

    Returns:
        The method's folder, for `read`.
    """
    place = place_of(benchmark, method, folder)
    numbers = range(len(benchmark.subjects))
    with progress(description=f"drawing: {method.name}", total=len(numbers)) as bar:
        for some in chunks(numbers, method.subjects_at_once):
            flat = [request for number in some for request in benchmark.requests(number)]
            _draw_missing(method, [r for r in flat if not _path(place, r).exists()], place, memory)
            bar.advance(len(some))
    return place


def read(benchmark: Benchmark, place: Path) -> list[Drawn]:
    """What `draw` left, subject by subject.

    Args:
        benchmark: that was drawn.
        place: as `draw` returned it.
    """
    return [_drawn(benchmark, number, place) for number in range(len(benchmark.subjects))]


def _drawn(benchmark: Benchmark, number: int, place: Path) -> Drawn:
    subject, requests = benchmark.subjects[number], benchmark.requests(number)
    files = {(r.prompt_index, r.repeat): _read(_path(place, r)) for r in requests}
    pictures = {which: file.picture for which, file in files.items()}
    repeated = [
        Pictures([pictures[prompt, repeat] for repeat in range(benchmark.repeats)])
        for prompt in benchmark.of_repeated(subject)
    ]
    prepared = from_json(Prepared, (place / requests[0].subject_id / _PREPARED).read_text(encoding="utf-8"))
    return Drawn(
        asked=Pictures([pictures[prompt, 0] for prompt in range(len(subject.prompts))]),
        repeated=repeated,
        costs=_costs(prepared, list(files.values())),
        key=f"{place.parent.name}/{place.name}",
    )


def place_of(benchmark: Benchmark, method: SubjectMethod, folder: Path) -> Path:
    """Where `draw` puts a method's pictures, in the folder that it is given."""
    return folder / file_name(benchmark.name) / file_name(f"{method.name}-{method.fingerprint}")


def picture_of(place: Path, request: Request) -> Image.Image:
    """A picture that `draw` has drawn, from the place of its method."""
    return _read(_path(place, request)).picture


def file_name(text: str) -> str:
    """Text as a file name: all but letters of any script, digits, dots, dashes and underscores becomes a dash."""
    return re.sub(r"[^\w.-]+", "-", text)


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
        peak_mib: most memory while it was drawn; see `dsd.evaluate.memory`. None where that tells of other work too.
    """

    picture: Image.Image
    seconds: float
    peak_mib: float | None


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What test-time work cost.

    Attributes:
        seconds: wall clock a subject.
        peak_mib: most memory meanwhile, likewise.
    """

    seconds: float
    peak_mib: float | None


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


def costs(benchmark: Benchmark, method: SubjectMethod, subjects: int) -> dict[str, list[float]]:
    """What a method costs for some subjects, one after the other, when nothing else runs; no picture is kept.

    Args:
        benchmark: whose first subject only warms up; the next ones are measured.
        method: who draws.
        subjects: to measure.

    Returns:
        For each column of `dsd.evaluate.metrics.costs` one value a subject.
    """
    found = []
    for number in range(subjects + 1):
        requests = benchmark.requests(number)
        prepared = prepare(method, requests)
        found.append(_costs(prepared, [picture for _, picture in as_drawn(method, requests)]))
    return {column: [of_subject[column] for of_subject in found[1:]] for column in found[0]}


def _costs(prepared: Prepared, drawn: Sequence[Picture]) -> dict[str, float]:
    seconds = sum(picture.seconds for picture in drawn) / len(drawn)
    peaks = [prepared.peak_mib, *(picture.peak_mib for picture in drawn)]
    memory = {"peak_mib": max(filter(None, peaks))} if all(peaks) else {}
    return {"seconds_per_image": seconds, "prepare_seconds": prepared.seconds, **memory}


def _draw_missing(method: SubjectMethod, missing: Sequence[Request], place: Path, memory: bool) -> None:
    """Prepares the method for the subjects that lack pictures, and saves each picture as soon as it is there."""
    if not missing:
        return
    prepared = prepare(method, missing)
    if not memory:
        prepared = replace(prepared, peak_mib=None)
    for subject in {request.subject_id for request in missing}:
        write_atomic(place / subject / _PREPARED, to_json(prepared))
    for request, drawn in as_drawn(method, missing):
        write_atomic(_path(place, request), _encoded(drawn if memory else replace(drawn, peak_mib=None)))


def _encoded(drawn: Picture) -> bytes:
    notes, file = PngInfo(), io.BytesIO()
    notes.add_text(_SECONDS, f"{drawn.seconds:.6g}")
    if drawn.peak_mib is not None:
        notes.add_text(_PEAK, f"{drawn.peak_mib:.6g}")
    drawn.picture.save(file, format="PNG", pnginfo=notes)
    return file.getvalue()


def _read(path: Path) -> Picture:
    with Image.open(path) as file:
        picture = load_image(file)
        peak = float(file.info[_PEAK]) if _PEAK in file.info else None
        return Picture(picture=picture, seconds=float(file.info[_SECONDS]), peak_mib=peak)


def _path(place: Path, request: Request) -> Path:
    return place / request.subject_id / f"prompt{request.prompt_index}-{request.repeat}-seed{request.seed}.png"
