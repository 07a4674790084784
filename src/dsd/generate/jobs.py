"""What is to be drawn, one job after another: a reference and a prompt each, from a folder of pictures or a table."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from PIL import Image

from dsd.config import did_you_mean, require_seeds, require_text
from dsd.data.tables import rows_of
from dsd.errors import UserError, cut
from dsd.generate.wanted import Wanted
from dsd.images import FITS, Fit, load_image
from dsd.limits import MOST_PICTURES, require_within

if TYPE_CHECKING:
    from dsd.generate.orders import Order

T = TypeVar("T")

TABLES = (".csv", ".tsv", ".jsonl")
"""Endings of a table of jobs."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings of the files of a folder that are taken for pictures."""


@dataclass(frozen=True, kw_only=True)
class Job(Wanted):
    """Pictures of one prompt.

    Attributes:
        where: What to call it in messages, such as 'row 3 of "jobs.csv"'; "" where it is the only one.
        image: Files of the references, as many as the model was trained with.
        n: How many.
        seed: Of the first one, the others count up from it; None takes a random one for each.
        asked: The words that a chat model made the prompt of; "" where it is the user's own.
        subject: What that model calls the subject.
        enhanced_by: That model.
    """

    where: str = ""
    image: tuple[Path, ...] = ()
    n: int = 1
    seed: int | None = None
    asked: str = ""
    subject: str = ""
    enhanced_by: str = ""

    def references(self) -> tuple[Image.Image, ...]:
        """The references, decoded; those that were read last are kept.

        Raises:
            UserError: One cannot be read.
        """
        return tuple(_read(path, _stamp(path)) for path in self.image)

    def order(self, seed: int) -> Order:
        """One of its films, for the pipeline.

        Raises:
            UserError: A reference cannot be read.
        """
        from dsd.generate.orders import Order

        return Order(**self.wanted(), references=self.references(), seed=seed)

    def check(self) -> None:
        """Finds what is wrong with it that can be known without the model.

        Raises:
            UserError: A reference that cannot be read, an empty prompt, or a number out of its range.
        """
        if not self.image:
            raise UserError("no reference picture was given; give --image FILE, or a column image")
        if not self.prompt.strip():
            raise UserError('no prompt was given; give --prompt "what the picture shall show", or a column prompt')
        for name in ("prompt", "negative_prompt"):
            require_text(name, getattr(self, name))
            if "\0" in getattr(self, name):  # which no file can say
                raise UserError(f"{name} holds a NUL, which is no text; leave it out")
        require_within("n", self.n, 1, MOST_PICTURES)
        if self.seed is not None:
            require_seeds("seed", self.seed, self.n)
        for name in ("height", "width", "steps", "frames"):
            if (value := getattr(self, name)) is not None:
                require_within(name, value, 1)
        self.references()


def of_folder(folder: Path, job: Job) -> list[Job]:
    """A job for each picture of a folder, in the order of their names; hidden files are left out.

    Args:
        folder: Its pictures are files of usual endings; its folders are not looked into.
        job: What all of them share.

    Raises:
        UserError: It cannot be read, or holds no picture.
    """
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    except OSError as error:
        raise UserError(f'the folder "{folder}" cannot be read ({error.strerror}); give one that can') from error
    found = [path for path in names if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise UserError(f'the folder "{folder}" holds no picture; put files in it that end in {", ".join(PICTURES)}')
    return [replace(job, where=f'"{path}"', image=(path,)) for path in found]


def of_table(path: Path, job: Job) -> Iterator[Job | UserError]:
    """A job for each row of a table, or why there is none.

    Args:
        path: A CSV or TSV file with a header, or JSON lines. Columns are those of `COLUMNS`, all but the prompt may be
            left out; paths are relative to the file. In JSON lines `image` may be a list.
        job: What rows take where they say nothing.

    Raises:
        UserError: It cannot be read, is of another kind, or has a column that is not known.
    """
    if path.suffix.lower() not in TABLES:
        raise UserError(f'"{path}" is no table of jobs by its name; give a file that ends in {", ".join(TABLES)}')
    try:
        if not path.is_file():
            raise UserError(f'there is no table of jobs "{path}"; give a file that exists')
        with path.open("rb") as file:
            for number, row in enumerate(rows_of(file, str(path)), start=1):
                yield _of_row(row, replace(job, where=f'row {number} of "{path}"'), path)
    except (OSError, ValueError) as error:
        raise UserError(f'the table of jobs "{cut(str(path), 400)}" cannot be read ({error}); give another') from error


def _of_row(row: Mapping[str, Any] | UserError, job: Job, path: Path) -> Job | UserError:
    if isinstance(row, UserError):
        return UserError(f"{job.where}: {row}")
    unknown = [column for column in row if column not in COLUMNS]
    if unknown:
        raise UserError(f'{job.where} has a column "{cut(str(unknown[0]))}"; {did_you_mean(unknown[0], COLUMNS)}')
    try:
        given = {name: COLUMNS[name](name, value) for name, value in row.items() if value not in (None, "")}
        if "image" in given:
            given["image"] = tuple(path.parent / name for name in given["image"])
        return replace(job, **given)
    except UserError as error:
        return UserError(f"{job.where}: {error}")


def _words(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UserError(f"{name} is {cut(repr(value))}, but must be text")
    return value


def _paths(name: str, value: Any) -> tuple[str, ...]:
    listed = value if isinstance(value, list) else [value]
    return tuple(_words(name, one) for one in listed)


def _whole(name: str, value: Any) -> int:
    number = _number(name, value)
    if not number.is_integer():
        raise UserError(f"{name} is {cut(repr(value))}, but must be a whole number")
    return int(value) if isinstance(value, int) or str(value).strip().lstrip("+-").isdecimal() else int(number)


def _number(name: str, value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"{name} is {cut(repr(value))}, but must be a number")
    return number


def _fit(name: str, value: Any) -> Fit:
    if value not in FITS:
        raise UserError(f'{name} is "{cut(str(value))}"; {did_you_mean(str(value), FITS)}')
    return value


COLUMNS: dict[str, Callable[[str, Any], Any]] = {
    "image": _paths, "prompt": _words, "negative_prompt": _words, "n": _whole, "seed": _whole, "height": _whole,
    "width": _whole, "fit": _fit, "steps": _whole, "text_scale": _number, "image_scale": _number, "guidance": _number,
    "frames": _whole,
}  # fmt: skip
"""Columns of a table of jobs, with what reads a cell."""
assert COLUMNS.keys() <= {field.name for field in fields(Job)}


@functools.lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, ...]) -> Image.Image:
    return load_image(path)


def _stamp(path: Path) -> tuple[int, ...]:
    """What changes with a file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # `load_image` tells
        return ()
    return found.st_mtime_ns, found.st_size
