"""Claims about reading captions: every layout, nothing empty, nothing twice, and a sentence for what cannot be read."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsd.curate.captions import MAX_CHARACTERS, CaptionFile, clean
from dsd.errors import UserError


def read(path: str | Path, limit: int = 100) -> tuple[list[str], dict[str, int]]:
    """The texts taken of a file, and what was skipped."""
    file = CaptionFile(str(path), limit)
    return [caption.text for caption in file], file.skipped


TEXTS = ["a red cat", "", "two mugs, on a table", "A Red Cat!", " ", "北京 \U0001f600"]
TAKEN = ["a red cat", "two mugs, on a table", "北京 \U0001f600"]
SKIPPED = {"empty": 2, "near-duplicate": 1}


def _parquet(path: Path) -> None:
    pq.write_table(pa.table({"URL": ["u"] * 6, "TEXT": [text or None for text in TEXTS]}), path)


def _csv(path: Path) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["id", "Caption"], *enumerate(TEXTS)])


def _tsv(path: Path) -> None:
    path.write_text("".join(f"{n}\t{text}\n" for n, text in [("id", "text"), *enumerate(TEXTS)]), encoding="utf-8")


def _jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps({"id": 1, "prompt": text}) + "\n" for text in TEXTS), encoding="utf-8")


def _txt(path: Path) -> None:
    path.write_text("\r\n".join(TEXTS), encoding="utf-8")


@pytest.mark.parametrize("write", [_parquet, _csv, _tsv, _jsonl, _txt])
def test_every_layout_gives_the_same_captions(write, tmp_path: Path) -> None:
    path = tmp_path / f"captions.{write.__name__.removeprefix('_')}"
    write(path)
    assert read(path) == (TAKEN, SKIPPED)
    assert read(f"file://{path}", 2)[0] == TAKEN[:2]


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    _parquet(tmp_path / "c.parquet")
    assert read(tmp_path / "c.parquet", 1) == (TAKEN[:1], {})


def test_captions_that_differ_in_a_place_are_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "c.txt"
    texts = [f"a red striped cat with a hat smiling {at} at the beach" for at in ("on the left", "on the right")]
    path.write_text("\n".join([*texts, texts[0].replace("cat", "cat,"), "!!!", "???"]))
    assert read(path)[0] == [*texts, "!!!", "???"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.parquet", None, "cannot read captions"),
        ("a.parquet", b"no parquet", "cannot read captions"),
        ("a.doc", b"a cat", "give one of .parquet, .csv"),
        ("a.txt", b"a cat\n\xff\xfe", "not UTF-8"),
        ("a.txt", b"\n \n", "no caption that is not empty"),
        ("a.csv", b"URL,WIDTH\nu,3\n", 'columns are "URL", "WIDTH"'),
        ("a.csv", b"", "no caption that is not empty"),
        ("a.csv", b"text\na cat\n\xff\xfe\n", "in UTF-8"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2"),
        ("a.jsonl", b'{"text": "a"}\nnot json\n', "line 2"),
        ("a.jsonl", b'["a"]\n', "line 1"),
        ("a.jsonl", b'{"text": 3}\n', "captions must be text"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        read(tmp_path / name)


def test_a_caption_column_of_another_type_is_refused(tmp_path: Path) -> None:
    for table, words in (({"TEXT": [1, 2]}, "holds int64"), ({"URL": ["u"]}, 'columns are "URL"')):
        pq.write_table(pa.table(table), tmp_path / "c.parquet")
        with pytest.raises(UserError, match=words):
            read(tmp_path / "c.parquet")


@given(st.text(max_size=2000))
def test_a_clean_caption_is_one_short_line_and_stays_as_it_is(raw: str) -> None:
    text = clean(raw)
    assert len(text) <= MAX_CHARACTERS
    assert text == " ".join(text.split()) and text.isprintable()
    assert clean(text) == text or "<" in text


def test_markup_and_overlength_go() -> None:
    assert clean("<a href='x'>Yale</a> Ribbon\tCutting") == "Yale Ribbon Cutting"
    assert clean("word " * 100) == ("word " * 60).strip()
    assert len(clean("x" * 1000)) == MAX_CHARACTERS
