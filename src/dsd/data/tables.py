"""Rows of a table that people write by hand: CSV, TSV or JSON lines, in UTF-8 with or without a byte order mark.

The readers of `datasets` serve no table that is checked row by row: its JSON names no line, and its CSV makes a number
of the caption "1984", nothing of "NA", and ends at a comma too many.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any, TypeAlias

from dsd.errors import UserError, cut

Row: TypeAlias = "Mapping[str, Any] | UserError"
"""Cells by column, or why there is no row in this place."""


def rows_of(file: IO[bytes], path: str) -> Iterator[Row]:
    """Reads a table.

    Args:
        file: the open table.
        path: its address, whose ending tells its kind: ``.csv``, ``.tsv`` or ``.jsonl``.

    Raises:
        UserError: what follows cannot be told apart into rows.
    """
    suffix = PurePosixPath(path).suffix.lower()
    return _json_lines(file) if suffix == ".jsonl" else _table(file, path, "\t" if suffix == ".tsv" else ",")


def _json_lines(file: IO[bytes]) -> Iterator[Row]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield UserError(f"line {number} is no JSON ({error}); write an object a line")
            continue
        holds = isinstance(row, dict)
        yield row if holds else UserError(f"line {number} holds {cut(repr(row))}, but must hold an object of columns")


def _table(file: IO[bytes], path: str, delimiter: str) -> Iterator[Row]:
    lines = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        table = csv.DictReader(lines, delimiter=delimiter, strict=True)  # a quote that is left open is an error
        columns = Counter(table.fieldnames or ())
        if columns and max(columns.values()) > 1:
            raise UserError(f'"{path}" has two columns {columns.most_common(1)[0][0]!r}; leave one')
        for row in table:
            surplus = [cell for cell in row.pop(None, None) or () if cell]
            yield (
                dict(row)
                if not surplus
                else UserError(
                    f"has more cells than the header, the first is {cut(repr(surplus[0]))}; quote text with commas"
                )
            )
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f'"{path}" is no table with a header, in UTF-8 ({error}); give one') from error
