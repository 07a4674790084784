"""Lets methods draw a benchmark, one folder a method and subject, so that an interrupted evaluation goes on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from dsd.baselines.protocol import Request, SubjectMethod
from dsd.evaluate.benchmark import Benchmark
from dsd.files import atomic_folder
from dsd.images import load_image
from dsd.log import progress

_SECONDS = "seconds.json"


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """All pictures of a method.

    Attributes:
        pictures: for each subject its prompts in order, then the repeats of the first prompt.
        seconds: for each subject, wall-clock seconds a picture, preparing included.
    """

    pictures: list[list[Image.Image]]
    seconds: list[float]


def draw(benchmark: Benchmark, method: SubjectMethod, folder: Path) -> Drawn:
    """Has a method draw everything that a benchmark asks for; what lies in the folder already is not drawn again.

    Args:
        benchmark: what to draw.
        method: who draws.
        folder: gets ``<benchmark>/<method>-<fingerprint>/<subject>/``.
    """
    place = folder / file_name(benchmark.name) / file_name(f"{method.name}-{method.fingerprint}")
    missing = [n for n, s in enumerate(benchmark.subjects) if not (place / s.id).is_dir()]
    done = len(benchmark.subjects) - len(missing)
    with progress(description=f"drawing: {method.name}", total=len(benchmark.subjects), completed=done) as bar:
        for numbers in _chunks(missing, method.subjects_at_once):
            _draw_subjects(benchmark, method, numbers, place)
            bar.advance(len(numbers))
    read = [_read(place / s.id, benchmark.requests(n)) for n, s in enumerate(benchmark.subjects)]
    return Drawn(pictures=[pictures for pictures, _ in read], seconds=[seconds for _, seconds in read])


def file_name(text: str) -> str:
    """Text as a file name: everything but letters, digits, dots, dashes and underscores becomes a dash."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text)


def _draw_subjects(benchmark: Benchmark, method: SubjectMethod, numbers: list[int], place: Path) -> None:
    asked = [benchmark.requests(n) for n in numbers]
    flat = [request for requests in asked for request in requests]
    started = time.perf_counter()
    method.prepare(flat)
    pictures = iter(method.generate(flat))
    seconds = (time.perf_counter() - started) / len(flat)
    for requests in asked:
        with atomic_folder(place / requests[0].subject_id) as temporary:
            for request in requests:
                next(pictures).save(temporary / _picture_name(request))
            (temporary / _SECONDS).write_text(json.dumps(seconds) + "\n")


def _read(folder: Path, requests: list[Request]) -> tuple[list[Image.Image], float]:
    pictures = [load_image(folder / _picture_name(request)) for request in requests]
    return pictures, float(json.loads((folder / _SECONDS).read_text()))


def _picture_name(request: Request) -> str:
    return f"prompt{request.prompt_index}-seed{request.seed}.png"


def _chunks(numbers: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
