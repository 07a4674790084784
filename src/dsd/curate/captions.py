"""Captions from a file: LAION-layout parquet, CSV, JSON lines or plain text; empty and repeated ones are left out."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
from typing import IO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from datasketch import MinHash, MinHashLSH

from dsd.data.records import Caption
from dsd.data.tables import rows_of
from dsd.errors import UserError, cut

COLUMNS = ("text", "caption", "captions", "prompt")
"""Names of a caption column, in upper or lower case; LAION's is ``TEXT``. The first that is found counts."""
MAX_CHARACTERS = 300
"""A longer caption is cut at a word; it is an inspiration, and long ones are lists of search words."""
NEAR_DUPLICATE = 0.85
"""Jaccard similarity of two captions' four-letter pieces from which on the later one is left out."""

_PIECE = 4
_PERMUTATIONS = 64


class CaptionFile:
    """Captions of a file, read as they are asked for.

    Args:
        path: a ``.parquet``, ``.csv``, ``.tsv``, ``.jsonl`` or ``.txt`` file; local or any address that fsspec knows.
        limit: captions to take at most.

    Attributes:
        skipped: rows before the last one that was taken that were not, by reason, as far as the file has been read.

    Raises:
        UserError: an unknown kind of file; and while it is read: no such file, a damaged one, no caption column, or not
            one caption.
    """

    def __init__(self, path: str, limit: int) -> None:
        self.path, self.limit = path, limit
        self.skipped: dict[str, int] = {}
        self._suffix = PurePosixPath(path).suffix.lower()
        if self._suffix not in _READERS:
            raise UserError(f'"{path}" is no caption file; give one of {", ".join(_READERS)}')

    def require(self) -> None:
        """Reads the first caption, to find out early whether there is one."""
        next(iter(CaptionFile(self.path, 1)))

    def __iter__(self) -> Iterator[Caption]:
        self.skipped.clear()
        taken = 0
        try:
            with fsspec.open(self.path, "rb") as file:
                for text in self._texts(_READERS[self._suffix](file, self.path)):  # pyright: ignore[reportArgumentType]
                    taken += 1
                    yield Caption(text=text)
                    if taken == self.limit:
                        break
        except UnicodeDecodeError as error:
            raise UserError(f'"{self.path}" is not UTF-8 text ({error.reason}); convert it') from error
        except (OSError, ImportError, pa.ArrowException) as error:
            raise UserError(
                f'cannot read captions from "{self.path}" ({error}); give a file that exists and is whole'
            ) from error
        if not taken:
            raise UserError(f'"{self.path}" holds no caption that is not empty; give a file with at least one')

    def _texts(self, raw: Iterable[str | None]) -> Iterator[str]:
        """What is taken of the rows."""
        seen, empty, repeated = _Seen(), 0, 0
        for one in raw:
            text = clean(one)
            if not text:
                empty += 1
            elif seen.before(text):
                repeated += 1
            else:
                counted = {"empty": empty, "near-duplicate": repeated}
                self.skipped.update({reason: count for reason, count in counted.items() if count})
                yield text


def clean(raw: str | None) -> str:
    """A caption on one line, without markup and control characters, cut to `MAX_CHARACTERS`."""
    text = re.sub(r"<[^<>]{1,500}>", " ", raw or "")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) <= MAX_CHARACTERS:
        return text
    return text[: MAX_CHARACTERS + 1].rsplit(" ", 1)[0][:MAX_CHARACTERS]


class _Seen:
    """Remembers captions to recognise near-duplicates, whatever their punctuation and case."""

    def __init__(self) -> None:
        self._index = MinHashLSH(threshold=NEAR_DUPLICATE, num_perm=_PERMUTATIONS)
        self._texts: list[str] = []

    def before(self, text: str) -> bool:
        """Whether a caption like this was seen before; if not, it now is."""
        plain = " ".join(re.findall(r"\w+", text.casefold())) or text
        pieces = _pieces(plain)
        sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
        sketch.update_batch([piece.encode() for piece in pieces])
        for key in self._index.query(sketch):
            other = _pieces(self._texts[int(str(key))])
            if len(pieces & other) >= NEAR_DUPLICATE * len(pieces | other):
                return True
        self._index.insert(str(len(self._texts)), sketch)
        self._texts.append(plain)
        return False


def _pieces(text: str) -> set[str]:
    return {text[at : at + _PIECE] for at in range(max(1, len(text) - _PIECE + 1))}


def _column(names: list[str], path: str) -> str:
    for wanted in COLUMNS:
        for name in names:
            if name.strip().lower() == wanted:
                return name
    found = ", ".join(f'"{name}"' for name in names) or "none"
    raise UserError(f'"{path}" has no caption column, its columns are {found}; rename the one with captions to TEXT')


def _parquet(file: IO[bytes], path: str) -> Iterator[str | None]:
    # By pyarrow: `datasets` reads all columns, pictures too, unless it is told one before it says which there are.
    with pq.ParquetFile(file) as table:
        column = _column(table.schema_arrow.names, path)
        kind = table.schema_arrow.field(column).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
            raise UserError(f'the column "{column}" of "{path}" holds {kind}, but captions must be text')
        for batch in table.iter_batches(columns=[column], batch_size=1024):
            yield from batch.column(0).to_pylist()


def _table(file: IO[bytes], path: str) -> Iterator[str | None]:
    column = None
    for number, row in enumerate(rows_of(file, path), start=1):
        if isinstance(row, UserError):
            raise UserError(f'"{path}", row {number}: {row}')
        column = column or _column(list(row), path)
        value = row.get(column)
        if value is not None and not isinstance(value, str):
            raise UserError(f'"{column}" in row {number} of "{path}" is {cut(repr(value))}, but captions must be text')
        yield value


def _text(file: IO[bytes], path: str) -> Iterator[str | None]:
    yield from io.TextIOWrapper(file, encoding="utf-8-sig")


_READERS: dict[str, Callable[[IO[bytes], str], Iterator[str | None]]] = {
    ".parquet": _parquet,
    ".csv": _table,
    ".tsv": _table,
    ".jsonl": _table,
    ".txt": _text,
}
