"""Captions from a file: LAION-layout parquet, CSV, TSV, JSON lines or plain text; what holds none is counted by reason.

A file is read as a stream: neither its length nor a bad row in it matters to what is read of it before.
"""

from __future__ import annotations

import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import IO, Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dsd.curate.cleaning import clean
from dsd.curate.likeness import WINDOW, Said
from dsd.data.records import Caption
from dsd.data.tables import DamagedRow, kind_of, rows_of, text_lines
from dsd.errors import UserError, cut
from dsd.places import raised_elsewhere, require_no_password

COLUMNS = ("text", "caption", "captions", "prompt", "txt", "alt_text", "sentences", "description")
"""Names of a caption column, in upper or lower case; LAION's is ``TEXT``. The first that is found counts."""
NEAR_DUPLICATE = 0.85
"""Jaccard similarity of two captions' four-letter pieces from which on the later one is left out."""
BANDS, BAND = 4, 15
"""Bands of a caption's sketch and numbers in one, see `dsd.curate.likeness.Said`."""
REASONS = ("empty", "near-duplicate", "no text", "another of its row", "not UTF-8", "damaged row")
"""Why a row, or a caption of a row of several, is not taken."""

_NOTHING = {"nan", "none", "null", "n/a", "na", "<na>"}
"""What tables hold in the place of a text that is missing."""
_BATCH = 8192
_ROWS_WITHOUT = 1000  # of JSON lines at the beginning that may lack the column of captions
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]{1,9}://\S+\s*", re.IGNORECASE)
_NO_WORDS = re.compile(rf"{_ADDRESS.pattern}|[\s0-9.,eE+-]*", re.IGNORECASE)


class CaptionFile:
    """Captions of a file, read as they are asked for.

    Args:
        path: a ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl``, ``.ndjson`` or ``.txt`` file, all but the first perhaps
            compressed (``.gz``, ``.bz2``, ``.xz``); local or any address that fsspec knows. A ``*`` stands for any
            words in names of files, which are read in the order of these.
        limit: captions to take at most.

    Attributes:
        skipped: what was not taken, by reason, of the rows before the last caption that was; of all rows when the file
            has ended.

    Raises:
        UserError: an unknown kind of file; and while it is read: no such file, a damaged one, no caption column, or not
            one caption.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.skipped: dict[str, int] = {}
        kind = kind_of(path)
        if kind not in _READERS or (kind == ".parquet" and not path.lower().endswith(kind)):
            raise UserError(f'"{path}" is no caption file; give one of {", ".join(_READERS)}')
        self._read = _READERS[kind]

    def require(self) -> None:
        """Reads the first caption, to find out early whether there is one."""
        next(iter(CaptionFile(self.path, 1)))

    def __iter__(self) -> Iterator[Caption]:
        self.skipped = {}
        found = False
        try:
            for text in self._new(map(text_of, self._cells())):
                found = True
                yield Caption(text=text)
        except (
            OSError,
            EOFError,
            ImportError,
            zlib.error,
            lzma.LZMAError,
            pa.ArrowException,
            *raised_elsewhere(),
        ) as error:
            raise UserError(
                f'cannot read captions from "{self.path}" ({_told(error)}); give a file that exists and is whole'
            ) from error
        if not found:
            skipped = "".join(f"; {count:,} {reason}" for reason, count in self.skipped.items())
            raise UserError(f'"{self.path}" holds no caption that is not empty{skipped}; give a file with at least one')

    def _cells(self) -> Iterator[Any]:
        """What the rows have in the place of a caption."""
        require_no_password(self.path)
        try:
            files = fsspec.open_files(self.path, "rb", compression="infer", expand="*" in self.path)
        except ValueError as error:  # a protocol that nobody knows
            raise UserError(f'cannot read captions from "{self.path}" ({error}); give another address') from error
        if not files:
            raise UserError(f'no file is called "{self.path}"; give names of files that exist')
        for opened in files:
            with opened as file:
                yield from self._read(file, str(opened.path))

    def _new(self, rows: Iterator[tuple[str, list[str]]]) -> Iterator[str]:
        """Texts that are not said twice, as many as wanted; `skipped` is up to date with each, and at the end."""
        said, counts, told = Said(NEAR_DUPLICATE, BANDS, BAND, WINDOW), Counter[str](), 0
        left = size = self.limit
        while batch := list(islice(rows, min(size, _BATCH))):
            new = iter(said.new([text for text, _ in batch if text]))
            for text, reasons in batch:
                if reasons:
                    counts.update(reasons)
                if text and next(new):
                    if (total := counts.total()) != told:
                        self.skipped = {reason: counts[reason] for reason in REASONS if counts[reason]}
                        told = total
                    left -= 1
                    yield text
                    if not left:
                        return
                elif text:
                    counts["near-duplicate"] += 1
            size = max(left, 2 * size)
        self.skipped = {reason: counts[reason] for reason in REASONS if counts[reason]}


def _told(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return cut(" ".join((reason or str(error) or type(error).__name__).split()))


def text_of(cell: Any) -> tuple[str, list[str]]:
    """The caption that a cell holds, or an empty text, and the reasons of what in it is not taken.

    Args:
        cell: of any table: a text, or several, which tell of one picture, so that the first is taken; anything else
            holds none.
    """
    if isinstance(cell, bytes):
        try:
            cell = cell.decode()
        except UnicodeDecodeError:
            return "", ["not UTF-8"]
    if isinstance(cell, str):
        text = clean(cell)
        if text.casefold() in _NOTHING:
            text = ""
        return text, [] if text else ["empty"]
    if isinstance(cell, list | tuple):
        read = [text_of(one) for one in cell]
        texts = [text for text, _ in read if text]
        if texts:
            return texts[0], ["another of its row"] * (len(texts) - 1)
        return "", read[0][1] if read else ["empty"]
    if isinstance(cell, DamagedRow):
        return "", [cell.kind]
    return "", ["empty" if cell is None or cell != cell else "no text"]  # NaN is not itself


def _column(names: Sequence[str], path: str) -> str:
    for wanted in COLUMNS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    found = ", ".join(f'"{name}"' for name in names) or "none"
    raise UserError(f'"{path}" has no caption column, its columns are {found}; rename the one with captions to TEXT')


def _parquet(file: IO[bytes], path: str) -> Iterator[Any]:
    # By pyarrow: `datasets` reads all columns, pictures too, unless it is told one before it says which there are.
    with pq.ParquetFile(file) as table:
        column = _column(table.schema_arrow.names, path)
        if table.schema_arrow.names.count(column) > 1:
            raise UserError(f'"{path}" has two columns {column!r}; leave one')
        kind = table.schema_arrow.field(column).type
        if not _is_text(kind):
            raise UserError(
                f'the column "{column}" of "{path}" holds {kind}, but captions must be text, or lists of it'
            )
        for batch in table.iter_batches(columns=[column], batch_size=1024):
            try:
                yield from batch.column(0).to_pylist()
            except UnicodeDecodeError:
                yield from map(_value, batch.column(0))


def _is_text(kind: pa.DataType) -> bool:
    types = pa.types
    if types.is_dictionary(kind) or isinstance(kind, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return _is_text(kind.value_type)
    return any(
        is_kind(kind)
        for is_kind in (
            types.is_string, types.is_large_string, types.is_string_view, types.is_null, types.is_binary,
            types.is_large_binary, types.is_binary_view,
        )
    )  # fmt: skip


def _value(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return DamagedRow(str(error), "not UTF-8")


def _table(file: IO[bytes], path: str) -> Iterator[Any]:
    column = None
    for row in rows_of(file, path, all_rows=True, is_header=_names_columns):
        if not isinstance(row, UserError):
            column = column or _column_of(row, path)
            row = row[column]
        yield row


def _json(file: IO[bytes], path: str) -> Iterator[Any]:
    """Each row has columns of its own; those of the first ones may lack the caption's."""
    column, lacking = None, None
    for number, row in enumerate(rows_of(file, path)):
        if isinstance(row, UserError):
            yield row
            continue
        try:
            column = column or _column(list(row), path)
        except UserError as error:
            lacking = lacking or error
            if number >= _ROWS_WITHOUT:
                raise lacking from None
        yield None if column is None else row.get(column)
    if column is None and lacking is not None:
        raise lacking


def _names_columns(cells: Sequence[str]) -> bool:
    """Whether a first row is a header: CC3M and CC12M have none, but an address in each row."""
    named = any(cell.strip().lower() in COLUMNS for cell in cells)
    return named or not any(_ADDRESS.fullmatch(cell) for cell in cells)


def _column_of(row: Mapping[str, Any], path: str) -> str:
    """The caption's; of a table without a header that whose cell is neither an address nor a number."""
    if list(row) != [str(number) for number in range(1, len(row) + 1)]:
        return _column(list(row), path)
    words = [name for name, cell in row.items() if cell.strip() and not _NO_WORDS.fullmatch(cell)]
    if len(words) != 1:
        raise UserError(
            f'"{path}" has no first row that names its columns, and {len(words)} of them may hold captions; write one, '
            "with TEXT for the captions"
        )
    return words[0]


def _text(file: IO[bytes], path: str) -> Iterator[Any]:
    yield from text_lines(file, path)


_READERS: dict[str, Callable[[IO[bytes], str], Iterator[Any]]] = {
    ".parquet": _parquet,
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _json,
    ".ndjson": _json,
    ".txt": _text,
}
