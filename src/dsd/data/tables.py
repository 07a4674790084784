"""Rows of a table that people write by hand or that programs export: CSV, TSV or JSON lines, in UTF-8 with or without a
byte order mark.

The readers of `datasets` serve no table that is checked row by row: its JSON names no line, and its CSV makes a number
of the caption "1984", nothing of "NA", and ends at a comma too many.

In CSV a quote that begins a cell has to be closed, perhaps lines later. TSV comes in two kinds that no name tells
apart: without any quoting, where a cell may begin with a quote as it may with any letter, and with quotes around cells
that hold tabs, quotes or line ends. So a row of TSV is a line, unless reading the quotes as quotes gives a row of the
header's length, and reading the lines as rows does not. Where both do, the rows before tell which kind the file is.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import IO, Any, TypeAlias

from dsd.errors import UserError, cut

Row: TypeAlias = "Mapping[str, Any] | UserError"
"""Cells by column, or why there is no row in this place."""

JSON_LINES = (".jsonl", ".ndjson")
COMPRESSED = (".gz", ".bz2", ".xz")
"""Endings of files that `fsspec` opens with ``compression="infer"``."""
_LONGEST_LINE = 1 << 24  # bytes
_LONGEST_ROW = 100  # lines
_BAD_BYTE = re.compile("[\udc80-\udcff]")  # how `surrogateescape` writes it
_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def kind_of(path: str) -> str:
    """The ending of a file's name that tells what it holds, such as ``.csv`` of ``a.CSV.gz``."""
    name = PurePosixPath(path.lower())
    return PurePosixPath(name.stem).suffix if name.suffix in COMPRESSED else name.suffix


class DamagedRow(UserError):
    """A row that cannot be read, though the next ones can.

    Attributes:
        kind: a few fixed words, to count by.
    """

    def __init__(self, message: str, kind: str = "damaged row") -> None:
        super().__init__(message)
        self.kind = kind


def rows_of(
    file: IO[bytes], path: str, *, all_rows: bool = False, is_header: Callable[[Sequence[str]], bool] | None = None
) -> Iterator[Row]:
    """Reads a table.

    Args:
        file: the open table.
        path: its address, whose ending tells its kind: ``.csv``, ``.tsv``, ``.jsonl`` or ``.ndjson``; one that tells of
            compression is looked past.
        all_rows: read on after a quote that a CSV leaves open, from the next line; otherwise that is an error.
        is_header: tells whether the first row names the columns; where it does not, they are called 1, 2 and so on.

    Raises:
        UserError: what follows cannot be told apart into rows.
    """
    suffix = kind_of(path)
    if suffix in JSON_LINES:
        yield from _json_lines(file, path)
        return
    rows = _tsv(_Lines(file, path)) if suffix == ".tsv" else _csv(_Lines(file, path))
    yield from _table(rows, path, all_rows, is_header)


def text_lines(file: IO[bytes], path: str) -> Iterator[str | DamagedRow]:
    """Reads plain text a line.

    Args:
        file: the open text.
        path: its address.

    Raises:
        UserError: it is no UTF-8 at all.
    """
    for line in _Lines(file, path):
        yield from (_damage(part) or part for part in line.rstrip("\r\n").split("\r"))


def _raw_lines(file: IO[bytes], path: str) -> Iterator[bytes]:
    """Lines with their ends; of a line of more than `_LONGEST_LINE` bytes only so many."""
    if not isinstance(file, io.BufferedIOBase):  # what fsspec opens elsewhere: its `readline` knows no limit
        opened: Any = file
        file = io.BufferedReader(opened)
    line = file.readline(_LONGEST_LINE)
    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f'"{path}" is UTF-16, not UTF-8 text; convert it')
    line = line.removeprefix(codecs.BOM_UTF8)
    if b"\r" in line and not line.endswith(b"\n"):  # a file whose lines end as they did on a Macintosh
        yield from line.splitlines(keepends=True)
        line = b""
    while line:
        yield line
        while len(line) == _LONGEST_LINE and not line.endswith(b"\n"):
            line = file.readline(_LONGEST_LINE)
        line = file.readline(_LONGEST_LINE)


class _Lines:
    """Lines that can be given back; bytes that are no UTF-8 stay in them as lone surrogates."""

    def __init__(self, file: IO[bytes], path: str) -> None:
        self._lines = _raw_lines(file, path)
        self._pushed: list[str] = []

    def __iter__(self) -> Iterator[str]:
        while line := self.next():
            yield line

    def next(self) -> str:
        """The next line, or an empty text at the end."""
        if self._pushed:
            return self._pushed.pop()
        return next(self._lines, b"").decode("utf-8", "surrogateescape")

    def push(self, lines: Sequence[str]) -> None:
        """Gives lines back, to be read again."""
        self._pushed += reversed(lines)


def _damage(text: str) -> DamagedRow | None:
    if text.isascii() or not _BAD_BYTE.search(text):
        return None
    return DamagedRow(f"{cut(repr(text))} is not UTF-8; convert it", "not UTF-8")


def _json_lines(file: IO[bytes], path: str) -> Iterator[Row]:
    for number, line in enumerate(_raw_lines(file, path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            kind = "not UTF-8" if isinstance(error, UnicodeDecodeError) else "damaged row"
            yield DamagedRow(f"line {number} is no JSON ({error}); write an object a line", kind)
            continue
        holds = isinstance(row, dict)
        yield row if holds else DamagedRow(f"line {number} holds {cut(repr(row))}, but must hold an object of columns")


def _table(
    rows: Iterator[list[str] | DamagedRow],
    path: str,
    all_rows: bool,
    is_header: Callable[[Sequence[str]], bool] | None,
) -> Iterator[Row]:
    names: list[str] | None = None
    for cells in rows:
        if isinstance(cells, DamagedRow):
            if not all_rows or names is None:
                raise UserError(f'"{path}" is no table with a header, in UTF-8 ({cells}); give one')
            yield cells
        elif names is not None:
            yield _row(names, cells)
        elif is_header is None or is_header(cells):
            names = cells
            columns = Counter(filter(None, names))
            if columns and max(columns.values()) > 1:
                raise UserError(f'"{path}" has two columns {columns.most_common(1)[0][0]!r}; leave one')
        else:
            names = [str(number) for number in range(1, len(cells) + 1)]
            yield _row(names, cells)


def _row(names: Sequence[str], cells: Sequence[str]) -> Row:
    surplus = [cell for cell in cells[len(names) :] if cell]
    if surplus:
        return DamagedRow(
            f"has more cells than the header, the first is {cut(repr(surplus[0]))}; quote text with commas"
        )
    return dict.fromkeys(names) | dict(zip(names, cells, strict=False))


def _csv(lines: _Lines) -> Iterator[list[str] | DamagedRow]:
    for line in lines:
        if not line.strip("\r\n"):
            continue
        cells, read = _strict(line, lines, ",") if '"' in line else (line.rstrip("\r\n").split(","), [])
        if isinstance(cells, DamagedRow):
            lines.push(read)
        yield _whole(cells)


def _tsv(lines: _Lines) -> Iterator[list[str] | DamagedRow]:
    width, exported = 0, None  # whether a program has put the quotes, as soon as a row tells
    for line in lines:
        if not line.strip("\r\n"):
            continue
        plain = line.rstrip("\r\n").split("\t")
        cells = plain
        if '"' in line:
            cells, read = _strict(line, lines, "\t")
            is_row = isinstance(cells, list) and len(cells) == (width or len(cells))
            are_rows = all(one.count("\t") + 1 == width for one in (line, *read))
            if isinstance(cells, DamagedRow) or (
                not read and any('"' in cell[1:] and cell[0] != '"' for cell in plain)
            ):
                exported = False
            elif is_row and not are_rows and exported is None:
                exported = True
            if not is_row or (read and are_rows and not exported):
                lines.push(read)
                cells = [_unquoted(cell) for cell in plain]
        width = width or len(plain if isinstance(cells, DamagedRow) else cells)
        yield _whole(cells)


def _strict(line: str, lines: _Lines, delimiter: str) -> tuple[list[str] | DamagedRow, list[str]]:
    """A row with its quotes read as quotes, and the further lines that were read for it."""
    read: list[str] = []

    def given() -> Iterator[str]:
        yield line
        while len(read) < _LONGEST_ROW and (more := lines.next()):
            read.append(more)
            yield more

    try:
        return next(csv.reader(given(), delimiter=delimiter, strict=True)), read
    except (csv.Error, StopIteration) as error:
        return DamagedRow(f"{cut(repr(line))} has quotes that do not match: {error}"), read


def _unquoted(cell: str) -> str:
    found = _QUOTED.fullmatch(cell)
    return cell if found is None else found[1].replace('""', '"')


def _whole(cells: list[str] | DamagedRow) -> list[str] | DamagedRow:
    if isinstance(cells, DamagedRow):
        return cells
    return next((damage for cell in cells if (damage := _damage(cell))), cells)
