"""Records as rows of parquet files whose schema tells `datasets` (and the hub's viewer) which columns are pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dsd.data.records import Caption, Description, Grid, GridPrompt, Model, Pair, PanelFilm, Reject, Sheet, Votes
from dsd.errors import UserError, cut
from dsd.images import encode, load_image
from dsd.images.writing import Format

if TYPE_CHECKING:  # imported where it is used: it is slow
    import datasets

Kind = Literal["pairs", "rejects", "grids", "films"]
Row = Pair | Reject | Sheet | PanelFilm | dict[str, Any]

ROW_GROUP = 64
_MODEL = ("", "_revision", "_template")
_VOTES = tuple(f"votes_{said}" for said in ("same", "other", "failed"))
SINCE_2 = ("score", "agreement", *_VOTES)
"""Columns that files of schema version 1 lack."""
_PAIR_COLUMNS: dict[str, str] = {
    "id": "string",
    "reference": "image",
    "target": "image",
    "reference_caption": "string",
    "target_caption": "string",
    "subject": "string",
    "first_details": "string",
    "second_details": "string",
    "comparison": "string",
    "reference_panel": "string",
    "target_panel": "string",
    "grid": "string",
    **{f"judge{part}": "string" for part in _MODEL},
    "score": "float64",
    "agreement": "float64",
    **dict.fromkeys(_VOTES, "int64"),
}
COLUMNS: dict[Kind, dict[str, str]] = {
    "pairs": _PAIR_COLUMNS,
    "rejects": {"outcome": "string", "reason": "string", "words": "string", **_PAIR_COLUMNS},
    "grids": {
        "id": "string",
        "image": "image",
        "reason": "string",
        "caption_id": "string",
        "caption": "string",
        "prompt_id": "string",
        "subject": "string",
        "scenes": "strings",
        "text": "string",
        "seed": "int64",
        "panel_subjects": "strings",
        "panel_details": "strings",
        "panel_captions": "strings",
        **{f"writer{part}": "string" for part in _MODEL},
        **{f"teacher{part}": "string" for part in _MODEL},
    },
    "films": {
        "id": "string",
        "references": "images",
        "targets": "images",
        "reference_captions": "strings",
        "target_captions": "strings",
        "subject": "string",
        "reference_panels": "strings",
        "target_panels": "strings",
        "grid": "string",
        **{f"judge{part}": "string" for part in _MODEL},
    },
}


class Encoder(Protocol):
    """How pictures of panels become files."""

    def bytes_of(self, image: Image.Image) -> bytes:
        """A picture as a file."""
        ...


@dataclass(frozen=True)
class Pictures:
    """How pictures of panels are written. Sheets are always PNG: what is cut from them is decided by every pixel.

    Attributes:
        format: PNG keeps all pixels; WebP and JPEG are smaller and lossy.
        quality: of WebP and JPEG, from 1 to 100.
    """

    format: Format = "png"
    quality: int = 95

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UserError(f"image_quality is {self.quality}, but must be from 1 to 100")

    def bytes_of(self, image: Image.Image) -> bytes:
        """A picture as a file."""
        return encode(image, self.format, quality=self.quality)


PNG = Pictures()


class EncodedOnce:
    """An `Encoder` that encodes a picture once and gives the same bytes again: a panel stands in many rows.

    Args:
        encoder: that does it.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._files: dict[int, tuple[Image.Image, bytes]] = {}  # a picture that is held keeps its number to itself

    def bytes_of(self, image: Image.Image) -> bytes:
        """A picture as a file."""
        if id(image) not in self._files:
            self._files[id(image)] = image, self._encoder.bytes_of(image)
        return self._files[id(image)][1]


@cache
def features(kind: Kind) -> datasets.Features:
    """What the columns of a kind's files are to `datasets`."""
    import datasets

    makers = {
        "string": lambda: datasets.Value("string"),
        "int64": lambda: datasets.Value("int64"),
        "float64": lambda: datasets.Value("float64"),
        "strings": lambda: datasets.List(datasets.Value("string")),
        "image": datasets.Image,
        "images": lambda: datasets.List(datasets.Image()),
    }
    return datasets.Features({name: makers[type_]() for name, type_ in COLUMNS[kind].items()})


@cache
def arrow_schema(kind: Kind) -> pa.Schema:
    """The schema of a kind's files, with Hugging Face features in its metadata."""
    return features(kind).arrow_schema


def to_parquet(kind: Kind, records: Sequence[Row], pictures: Encoder = PNG) -> bytes:
    """The bytes of a file with the records, in order; equal records give equal bytes.

    Raises:
        UserError: a text of a record is no Unicode.
    """
    once = EncodedOnce(pictures)
    rows = [to_row(record, once) for record in records]
    try:
        table = pa.Table.from_pylist(rows, schema=arrow_schema(kind))
    except UnicodeEncodeError as error:
        raise _no_text(kind, rows) from error
    buffer = io.BytesIO()
    # Zstandard at a fixed level; pictures are compressed already and gain nothing from dictionaries.
    pq.write_table(table, buffer, compression="zstd", compression_level=3, row_group_size=ROW_GROUP, version="2.6")
    return buffer.getvalue()


def to_row(record: Row, pictures: Encoder = PNG) -> dict[str, Any]:
    """The columns of a record; a row passes as it is, with the bytes of its pictures."""
    if isinstance(record, dict):
        return record
    if isinstance(record, Sheet):
        return _sheet_row(record)
    if isinstance(record, PanelFilm):
        return _judged_row("films", record, pictures)
    if isinstance(record, Reject):
        own = {"outcome": record.outcome, "reason": record.reason, "words": record.words}
        return own | _judged_row("pairs", record.pair, pictures)
    return _judged_row("pairs", record, pictures)


def to_pair(row: dict[str, Any]) -> Pair:
    """The pair of a row of `pairs` or `rejects`."""
    return Pair(**_judged("pairs", row))


def to_film(row: dict[str, Any]) -> PanelFilm:
    """The film of a row."""
    return PanelFilm(**_judged("films", row))


def to_reject(row: dict[str, Any]) -> Reject:
    """The reject of a row."""
    return Reject(pair=to_pair(row), outcome=row["outcome"], reason=row["reason"], words=row["words"])


def to_sheet(row: dict[str, Any]) -> Sheet:
    """The sheet of a row."""
    caption = Caption(text=row["caption"])
    if row["prompt_id"] is None:
        return Sheet(caption=caption, prompt=None, grid=None, reason=row["reason"])
    prompt = GridPrompt(
        caption=caption.id,
        subject=row["subject"],
        scenes=tuple(row["scenes"]),
        text=row["text"],
        writer=_to_model(row, "writer"),
    )
    image = load_image(row["image"]["bytes"])
    grid = Grid(prompt=prompt.id, image=image, seed=row["seed"], teacher=_to_model(row, "teacher"))
    words = zip(row["panel_subjects"], row["panel_details"], row["panel_captions"], strict=True)
    described = tuple(Description(subject=subject, details=details, caption=said) for subject, details, said in words)
    return Sheet(caption=caption, prompt=prompt, grid=grid, descriptions=described, reason=row["reason"])


def _no_text(kind: Kind, rows: Sequence[dict[str, Any]]) -> UserError:
    """Which text has halves of surrogate pairs, which UTF-8 cannot say."""
    for number, row in enumerate(rows):
        for name, value in row.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and not _is_text(text):
                    return UserError(
                        f"row {number} of {kind} cannot be written: its {name} is {cut(ascii(text))}, which is no text "
                        "of Unicode; refuse such a text where it is read"
                    )
    raise AssertionError("all texts are Unicode")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _judged_row(kind: Kind, record: Pair | PanelFilm, pictures: Encoder) -> dict[str, Any]:
    own = {name: _cell(getattr(record, name), pictures) for name in _plain(kind)}
    counts = {} if isinstance(record, PanelFilm) else _vote_columns(record.votes)
    return own | _model_columns("judge", record.judge) | counts


def _judged(kind: Kind, row: dict[str, Any]) -> dict[str, Any]:
    """The fields of a pair or film."""
    own = {name: _value(row.get(name) if name in SINCE_2 else row[name]) for name in _plain(kind)}
    return own | {"judge": _to_model(row, "judge")} | ({} if kind == "films" else {"votes": _to_votes(row)})


def _plain(kind: Kind) -> list[str]:
    """Columns that are fields by the same name."""
    return [name for name in COLUMNS[kind] if not name.startswith("judge") and name not in _VOTES]


def _vote_columns(votes: Votes | None) -> dict[str, int | None]:
    said = (None, None, None) if votes is None else (votes.same, votes.other, votes.failed)
    return dict(zip(_VOTES, said, strict=True))


def _to_votes(row: dict[str, Any]) -> Votes | None:
    counts: list[Any] = [row.get(name) for name in _VOTES]
    return None if counts[0] is None else Votes(same=counts[0], other=counts[1], failed=counts[2])


def _cell(value: Any, pictures: Encoder) -> Any:
    """What stands in a row for a text, a picture, or several of them."""
    if isinstance(value, tuple):
        return [_cell(one, pictures) for one in value]
    return _picture(value, pictures) if isinstance(value, Image.Image) else value


def _value(cell: Any) -> Any:
    """The inverse of `_cell`."""
    if isinstance(cell, list):
        return tuple(_value(one) for one in cell)
    return load_image(cell["bytes"]) if isinstance(cell, dict) else cell


def _sheet_row(sheet: Sheet) -> dict[str, Any]:
    row: dict[str, Any] = {"reason": sheet.reason, "caption_id": sheet.caption.id, "caption": sheet.caption.text}
    if sheet.prompt is not None:
        prompt = sheet.prompt
        row |= {"prompt_id": prompt.id, "subject": prompt.subject, "scenes": list(prompt.scenes), "text": prompt.text}
        row |= _model_columns("writer", prompt.writer)
    if sheet.grid is not None:
        row |= {"id": sheet.grid.id, "image": _picture(sheet.grid.image, PNG), "seed": sheet.grid.seed}
        row |= _model_columns("teacher", sheet.grid.teacher)
    return row | {
        "panel_subjects": [words.subject for words in sheet.descriptions],
        "panel_details": [words.details for words in sheet.descriptions],
        "panel_captions": [words.caption for words in sheet.descriptions],
    }


def _picture(image: Image.Image, pictures: Encoder) -> dict[str, Any]:
    return {"bytes": pictures.bytes_of(image), "path": None}


def _model_columns(name: str, model: Model) -> dict[str, str]:
    return {name: model.name, f"{name}_revision": model.revision, f"{name}_template": model.template}


def _to_model(row: dict[str, Any], name: str) -> Model:
    return Model(name=row[name], revision=row[f"{name}_revision"], template=row[f"{name}_template"])
