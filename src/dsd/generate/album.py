"""A folder of drawn pictures, which knows what is drawn already: the same jobs again draw what is missing.

``NUMBER-SEED.png`` are the pictures, a number a job, with ``NUMBER-SEED.json`` beside each, which says what it was made
from; ``drawn/`` holds a record of each, by its content: references, words, settings, model and adapter.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.errors import cut
from dsd.files import make_folder, sha256_of, write_atomic
from dsd.generate.jobs import Job
from dsd.images import contact_sheet, encode, load_image
from dsd.runs import Ledger

RECORDS, SHEET = "drawn", "sheet.png"
_NUMBERED = re.compile(r"(\d{3,})-.*\.png")
_RANDOM = 1 << 32
"""Random seeds are below it: short enough to type."""
_NO_CONTENT = ("where", "n", "seed", "image", "asked", "subject", "enhanced_by")
_SHEET_ROWS, _SHEET_SIDE, _SHEET_WORDS = 60, 256, 44


@dataclass(kw_only=True)
class Planned:
    """One film that was asked for.

    Attributes:
        job: Of which it is one.
        seed: Of its noise.
        path: Of its picture; several frames have their number after the stem.
        number: Of its job in an album.
        record: The name of its record in the album.
        ledger: The album's records; None where it is a file of its own.
        drawn: Its files, once it is drawn.
    """

    job: Job
    seed: int
    path: Path
    number: int = 0
    record: str = ""
    ledger: Ledger | None = None
    drawn: tuple[Path, ...] = ()

    @classmethod
    def alone(cls, job: Job, path: Path) -> Planned:
        """A picture that is written to a file of its own, drawn anew each time."""
        return cls(job=job, seed=_random() if job.seed is None else job.seed, path=path)

    def keep(self, pictures: Sequence[Image.Image], told: Mapping[str, Any] | None) -> None:
        """Writes what was drawn, and then its record.

        Args:
            pictures: Its frames, RGB.
            told: What they were made from, JSON, for each file and for ``NAME.json`` beside it; None for nothing.

        Raises:
            UserError: The place cannot be written to.
        """
        paths = []
        inside = {key: value if isinstance(value, str) else json.dumps(value) for key, value in (told or {}).items()}
        for number, picture in enumerate(pictures):
            path = self.path if len(pictures) == 1 else self.path.with_stem(f"{self.path.stem}-{number}")
            if told is not None:
                write_atomic(path.with_suffix(".json"), _json(told))
            write_atomic(path, encode(picture, "png", inside))
            paths.append(path)
        self.drawn = tuple(paths)
        if self.ledger is not None:
            record = {"number": self.number, "seed": self.seed, "pictures": [path.name for path in paths]}
            self.ledger.commit(self.record, record)


class Album:
    """See the module.

    Args:
        folder: Made when missing.

    Raises:
        UserError: It cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = make_folder(folder)
        self._ledger = Ledger(folder / RECORDS)
        names = (found[1] for path in folder.iterdir() if (found := _NUMBERED.fullmatch(path.name)))
        self._next = max((int(number) + 1 for number in names), default=0)
        self._seen: Counter[str] = Counter()

    def plan(self, jobs: Sequence[Job], sources: Mapping[str, Any]) -> list[Planned]:
        """Each film of each job, with its place and seed; a job that is here twice is drawn twice.

        Args:
            jobs: That `Job.check` finds nothing wrong with.
            sources: What else decides a picture: models, JSON.

        Raises:
            UserError: A record is damaged.
        """
        return [planned for job in jobs for planned in self._films(job, sources)]

    def sheet(self, films: Sequence[Planned]) -> Path | None:
        """Writes ``sheet.png``: a row a job, its references and what was drawn; None where that is one picture.

        Args:
            films: That are drawn, those of a job one after another; of many jobs the first are shown.
        """
        rows: dict[int, list[Planned]] = {}
        for film in films:
            rows.setdefault(film.number, []).append(film)
        if sum(len(film.drawn) for film in films) < 2:
            return None
        shown, words = [], []
        for row in list(rows.values())[:_SHEET_ROWS]:
            drawn = [_thumbnail(load_image(path), _SHEET_SIDE) for film in row for path in film.drawn]
            side = max(max(picture.size) for picture in drawn)
            shown.append([*(_thumbnail(one, side) for one in row[0].job.references()), *drawn])
            words.append(_short(row[0].job.prompt))
        small = max(max(picture.size) for row in shown for picture in row) <= _SHEET_SIDE // 2
        write_atomic(self.folder / SHEET, encode(contact_sheet(shown, row_labels=words, scale=2 if small else 1)))
        return self.folder / SHEET

    def _films(self, job: Job, sources: Mapping[str, Any]) -> list[Planned]:
        content = _content(job, sources)
        again, self._seen[content] = self._seen[content], self._seen[content] + 1
        seeds = [None if job.seed is None else job.seed + at for at in range(job.n)]
        names = [f"{content}-{again}-{at if seed is None else f'seed-{seed}'}" for at, seed in enumerate(seeds)]
        records = [self._ledger.find(name, _read) for name in names]
        number = next((record["number"] for record in records if record is not None), None)
        if number is None:
            number, self._next = self._next, self._next + 1
        return [
            self._film(job, number, seed, name, record)
            for seed, name, record in zip(seeds, names, records, strict=True)
        ]

    def _film(self, job: Job, number: int, seed: int | None, name: str, record: dict[str, Any] | None) -> Planned:
        if record is not None:
            seed = int(record["seed"])
        elif seed is None:
            seed = _random()
        files = [self.folder / file for file in record["pictures"]] if record is not None else []
        return Planned(
            job=job, seed=seed, path=self.folder / f"{number:03d}-{seed}.png", number=number, record=name,
            ledger=self._ledger, drawn=tuple(files) if all(map(_is_there, files)) else (),
        )  # fmt: skip


def _json(told: Mapping[str, Any]) -> bytes:
    """JSON of what may hold names of files that are not UTF-8."""
    return (json.dumps(told, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _random() -> int:
    return secrets.randbelow(_RANDOM)


def _thumbnail(picture: Image.Image, side: int) -> Image.Image:
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _content(job: Job, sources: Mapping[str, Any]) -> str:
    """What names a job's content, wherever its files lie."""
    settings = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    told = {name: value for name, value in settings.items() if name not in _NO_CONTENT}
    told |= {"references": [sha256_of(path) for path in job.image], "sources": dict(sources)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def _read(content: Any) -> dict[str, Any]:
    record = {"number": int(content["number"]), "seed": int(content["seed"]), "pictures": list(content["pictures"])}
    if not all(isinstance(name, str) and Path(name).name == name for name in record["pictures"]):
        raise ValueError("pictures are no file names")
    return record


def _short(words: str) -> str:
    return cut(words, _SHEET_WORDS).partition("… (")[0] + ("…" if len(words) > _SHEET_WORDS else "")
