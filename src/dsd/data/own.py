"""Rows of the user's own data become examples, or a sentence that names the file and the row."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from dsd.data.records import content_id, joined
from dsd.data.tables import Row
from dsd.errors import UserError, cut
from dsd.images import load_image
from dsd.log import console

_ENDINGS = ("png", "jpg", "jpeg", "webp", "txt")


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of the user's own data are called.

    Attributes:
        reference: pictures that are given: a picture or a list of them; of a webdataset the member's ending, where
            ``.png``, ``.jpg``, ``.jpeg``, ``.webp`` or ``.txt`` may be left out, and ``txt`` alone is a caption.
        target: pictures to draw, likewise.
        caption: of the targets: one for all, or a list with one for each.
        group: rows of one group are held out together; those of one reference are, when left out.
    """

    reference: str = "reference"
    target: str = "target"
    caption: str = "caption"
    group: str | None = None


@dataclass(frozen=True, kw_only=True)
class OwnExample:
    """An example of the user's own; see `dsd.data.records.Example`."""

    id: str
    grid: str
    references: tuple[Image.Image, ...]
    targets: tuple[Image.Image, ...]
    caption: str


@dataclass(frozen=True, kw_only=True)
class OwnRows:
    """Rows of the user's own data, on their way to be examples.

    Attributes:
        rows: starts to read them, from the first one on.
        where: what they are rows of, for messages.
        folder: that names of pictures are relative to.
        columns: what they are called.
        skip: leave out rows that cannot be used, and say how many.
        one_size: whether all pictures must agree in size.
    """

    rows: Callable[[], Iterator[Row]]
    where: str
    folder: Path
    columns: Columns
    skip: bool
    one_size: bool = False

    def examples(self) -> Iterator[OwnExample]:
        """An example a row.

        Raises:
            UserError: a row cannot be used and is not to be left out.
        """
        bad: list[str] = []
        for outcome in self.outcomes():
            if isinstance(outcome, OwnExample):
                yield outcome
            elif self.skip:
                bad.append(str(outcome))
            else:
                raise UserError(f"{outcome}; or leave such rows out with --skip-bad-rows") from outcome
        if bad:
            console.print(f"warning: {len(bad)} rows were left out, the first: {bad[0]}")

    def outcomes(self) -> Iterator[OwnExample | UserError]:
        """What becomes of each row: an example, or the sentence that says why it cannot be one."""
        first: OwnExample | None = None
        for number, row in enumerate(self.rows(), start=1):
            try:
                if isinstance(row, UserError):
                    raise row
                example = self._example(row)
                self._require_alike(example, first or example)
            except UserError as error:
                mistake = UserError(f'"{self.where}", row {number}: {error}')
                mistake.__cause__ = error
                yield mistake
            else:
                first = first or example
                yield example

    def files(self) -> Iterator[str]:
        """The names of pictures' files, as rows give them."""
        for row in self.rows():
            if isinstance(row, UserError):
                continue
            for column in (self.columns.reference, self.columns.target):
                for cell in (row[name] for name in _names(row, column)):
                    for one in cell if isinstance(cell, (list, tuple)) else [cell]:
                        if isinstance(file := _content(one), str):
                            yield file

    def _example(self, row: Mapping[str, Any]) -> OwnExample:
        columns = self.columns
        references = self._pictures(row, columns.reference)
        targets = self._pictures(row, columns.target)
        captions = self._captions(row, len(targets))
        grid = content_id("reference", *references) if columns.group is None else str(self._cell(row, columns.group))
        identity = content_id("example", *references, *targets, captions)
        return OwnExample(id=identity, grid=grid, references=references, targets=targets, caption=captions)

    def _require_alike(self, example: OwnExample, first: OwnExample) -> None:
        """Refuses an example that cannot be in one batch with the first one."""
        found, wanted = ((len(one.references), len(one.targets)) for one in (example, first))
        if found != wanted:
            raise UserError(
                f"there are {found[0]} references and {found[1]} targets, where the first row has {wanted[0]} and "
                f"{wanted[1]}; give all rows equally many of each"
            )
        size = first.references[0].size
        for picture in (*example.references, *example.targets) if self.one_size else ():
            if picture.size != size:
                raise UserError(
                    f"a picture is {picture.height} x {picture.width} pixels high and wide, where the first one is "
                    f"{size[1]} x {size[0]}; give --train.frame-size HEIGHT WIDTH to have all resized"
                )

    def _pictures(self, row: Mapping[str, Any], column: str) -> tuple[Image.Image, ...]:
        cell = self._cell(row, column)
        cells = cell if isinstance(cell, (list, tuple)) else [cell]
        if not cells:
            raise UserError(f'the column "{column}" holds no picture; give one')
        return tuple(self._picture(one, column) for one in cells)

    def _picture(self, cell: Any, column: str) -> Image.Image:
        cell = _content(cell)
        if isinstance(cell, (Image.Image, bytes)):
            return load_image(cell)
        if isinstance(cell, str) and cell.strip():
            return load_image(self.folder / cell)
        raise UserError(
            f'the column "{column}" holds {cut(repr(cell))}, but must hold a picture or the name of its file'
        )

    def _captions(self, row: Mapping[str, Any], targets: int) -> str:
        cell = self._cell(row, self.columns.caption)
        if isinstance(cell, bytes):
            cell = cell.decode("utf-8", "replace")
        said = list(cell) if isinstance(cell, (list, tuple)) else [cell]
        if not all(isinstance(one, str) and one.strip() for one in said):
            raise UserError(f'the column "{self.columns.caption}" holds {cut(repr(cell))}, but must hold a sentence')
        if len(said) not in (1, targets):
            raise UserError(f"there are {len(said)} captions for {targets} targets; give one for all or one for each")
        return joined(said)

    def _cell(self, row: Mapping[str, Any], column: str) -> Any:
        names = _names(row, column)
        if not names:
            known = ", ".join(f'"{name}"' for name in row)
            raise UserError(f'there is no column "{column}", only {cut(known, 400)}; name yours with --columns')
        filled = [name for name in names if row[name] is not None]
        if not filled:
            raise UserError(f'the column "{column}" is empty; fill it')
        return row[filled[0]]


def _names(row: Mapping[str, Any], column: str) -> list[str]:
    """What a column may be called in a row: a webdataset's members have endings, a caption perhaps nothing else."""
    names = [column, *(f"{column}.{ending}" for ending in _ENDINGS)]
    return [name for name in (*names, *(["txt"] if column == Columns.caption else [])) if name in row]


def _content(cell: Any) -> Any:
    """A picture's bytes, or the name of its file, where the cell is an undecoded image of `datasets`."""
    if isinstance(cell, Mapping) and {"bytes", "path"} & cell.keys():
        return cell.get("bytes") or cell.get("path")
    return cell
