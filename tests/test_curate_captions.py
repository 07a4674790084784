"""Claims about reading captions: every layout, nothing empty, nothing twice, and a sentence for what cannot be read."""

from __future__ import annotations

import bz2
import csv
import dataclasses
import gzip
import json
import lzma
import pickle
import re
import time
import tracemalloc
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasketch import MinHash, MinHashLSH
from hypothesis import given
from hypothesis import strategies as st
from s3_server import s3_server

from dsd.curate import likeness
from dsd.curate.captions import BAND, BANDS, NEAR_DUPLICATE, CaptionFile
from dsd.curate.claimed import SHARD, Captions
from dsd.curate.cleaning import MAX_CHARACTERS, clean
from dsd.curate.likeness import Said, alike, plain
from dsd.curate.units import Units
from dsd.data.records import Caption
from dsd.errors import UserError
from dsd.places import Place
from dsd.recipes.registry import recipe
from dsd_world.captions import panel_captions
from dsd_world.individuals import sample_individuals, sample_scenes


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
        ("a.parquet.gz", b"", "give one of .parquet, .csv"),
        ("a.doc", b"a cat", "give one of .parquet, .csv"),
        ("a.txt", b"\n \n", "no caption that is not empty; 2 empty"),
        ("a.txt", b"\xff\xfea\x00", "UTF-16"),
        ("a.txt.gz", b"a cat", "cannot read captions"),
        ("a.csv", b"URL,WIDTH\nu,3\n", 'columns are "URL", "WIDTH"'),
        ("a.csv", b"", "no caption that is not empty"),
        ("a.csv", b"t\xffxt\na cat\n", "no table with a header, in UTF-8"),
        ("a.tsv", b"a cat\ta dog\thttp://a.b/c\n", "2 of them may hold captions"),
        ("a.jsonl", b'{"url": "a"}\n{"url": "b"}\n', 'columns are "url"'),
        ("a.jsonl", b'{"text": 3}\n[]\n', "not empty; 1 no text; 1 damaged row"),
        ("*.txt", None, "no file is called"),
        ("foo://a.txt", None, "cannot read captions"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=re.escape(words)):
        read(name if "://" in name else tmp_path / name)


def test_a_store_that_lets_nobody_in_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="cannot read captions"):
        read("s3://nobody/a.parquet")
    s3fs.S3FileSystem.clear_instance_cache()  # of those who may do nothing


@pytest.mark.parametrize("at", [0.3, 0.999])
def test_a_compressed_file_that_ends_early_is_one_sentence(at: float, tmp_path: Path) -> None:
    whole = gzip.compress("\n".join(map(str, range(9999))).encode(), mtime=0)
    (tmp_path / "a.txt.gz").write_bytes(whole[: int(at * len(whole))])
    with pytest.raises(UserError, match="cannot read captions"):
        read(tmp_path / "a.txt.gz", 10000)


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_compressed_files_are_read(ending: str, tmp_path: Path) -> None:
    _tsv(tmp_path / "a.tsv")
    packed = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[ending]
    (tmp_path / f"b.TSV{ending}").write_bytes(packed((tmp_path / "a.tsv").read_bytes()))
    assert read(tmp_path / f"b.TSV{ending}") == (TAKEN, SKIPPED)


def test_a_star_names_the_parts_of_an_export(tmp_path: Path) -> None:
    for number, text in enumerate(["a red cat", "two blue mugs", "A red cat."]):
        pq.write_table(pa.table({"TEXT": [text]}), tmp_path / f"part-{number}.parquet")
    assert read(tmp_path / "part-*.parquet") == (["a red cat", "two blue mugs"], {"near-duplicate": 1})


# Rows of TSV: a line each, where quotes are no more than letters, or as programs export them.

PLAIN = ['"the blue owl reads', 'a 5" nail', "it's", 'nails 5"', '"so" she said', 'say ""hi""', '"', "a, b"]
QUOTED = ['"the blue owl reads', "a\ttab", "two\nlines", 'a "b" c', 'ends "here"', 'three\n\n"lines"', "x,y", "plain"]


@pytest.mark.parametrize("header", ["text", "text\turl", "url\ttext", "url\ttext\tid"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_row_of_tsv_without_quoting_is_a_line(header: str, end: str, tmp_path: Path) -> None:
    texts = [f"{text}{number}" if text[-1:] != '"' else f"{number}{text}" for number, text in enumerate(PLAIN)]
    rows = ["\t".join(text if name == "text" else f"http://u/{name}" for name in header.split("\t")) for text in texts]
    (tmp_path / "a.tsv").write_text(end.join([header, *rows, ""]), encoding="utf-8", newline="")
    assert read(tmp_path / "a.tsv") == (texts, {})


def test_a_row_that_begins_with_a_quote_swallows_no_other(tmp_path: Path) -> None:
    rows = ['"the blue owl reads\tu1', "a red fox\tu2", 'a mug of 5"\tu3', "an old ship\tu4"]
    (tmp_path / "a.tsv").write_text("\n".join(["caption\turl", *rows]))
    assert read(tmp_path / "a.tsv") == ([row.split("\t")[0] for row in rows], {})


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("written", ["pandas", "all quoted", "windows"])
def test_an_export_with_quotes_around_some_cells_is_read_as_it_was_written(
    written: str, column: int, tmp_path: Path
) -> None:
    data: dict[str, list[object]] = {"url": [f"http://u/{n}" for n in range(len(QUOTED))], "id": [*range(len(QUOTED))]}
    frame = pd.DataFrame(data)
    frame.insert(column, "TEXT", QUOTED)
    how: dict[str, Any] = {
        "pandas": {}, "all quoted": {"quoting": csv.QUOTE_ALL}, "windows": {"lineterminator": "\r\n"},
    }[written]  # fmt: skip
    frame.to_csv(tmp_path / "a.tsv", sep="\t", index=written == "pandas", **how)
    assert read(tmp_path / "a.tsv") == ([clean(text) for text in QUOTED], {})
    frame.to_csv(tmp_path / "a.csv", index=False, **how)
    assert read(tmp_path / "a.csv") == ([clean(text) for text in QUOTED], {})


def test_a_tsv_as_polars_writes_it(tmp_path: Path) -> None:
    """It quotes cells with a tab, a quote or a line end, and empty texts, which are none to it when unquoted."""
    rows = [
        "TEXT\turl",
        "a red cat\tu",
        '""\tu',
        "\tu",
        '"two\nlines"\tu',
        '"a\ttab\nand a line"\tu',
        '"say ""hi"""\tu',
    ]
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    assert read(tmp_path / "a.tsv") == (["a red cat", "two lines", "a tab and a line", 'say "hi"'], {"empty": 2})


def test_bad_rows_of_a_csv_are_counted_and_the_next_ones_read(tmp_path: Path) -> None:
    rows = [b"id,caption", b'1,"a red\ncat, asleep"', b'2,"never closed', b"3,a b\xffd byte", b"4,two mugs,more", b"5",
            b'6,"x" y', b"7,an old ship"]  # fmt: skip
    (tmp_path / "a.csv").write_bytes(b"\n".join(rows))
    skipped = {"empty": 1, "not UTF-8": 1, "damaged row": 3}
    assert read(tmp_path / "a.csv") == (["a red cat, asleep", "an old ship"], skipped)


def test_bad_lines_of_a_text_are_counted_whatever_ends_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a red cat\r\n\xff\xfe\r\ntwo mugs")
    assert read(tmp_path / "a.txt") == (["a red cat", "two mugs"], {"not UTF-8": 1})
    (tmp_path / "b.csv").write_bytes(b"text\ra red cat\rtwo mugs\r")
    assert read(tmp_path / "b.csv") == (["a red cat", "two mugs"], {})


# What datasets of captions and pictures look like.

CC3M = """a very typical bus station\thttp://lh6.ggpht.com/-IvRtNLNcG8o/TpFyrudaT6I.jpg
sierra looked stunning in this top and this skirt while performing with person\thttp://i.dailymail.co.uk/i/24.jpg
"the blue owl reads , said person\thttp://media.gettyimages.com/photos/a,b.jpg
young confused girl standing in front of a wardrobe\thttp://c8.alamy.com/comp/D2.jpg
"""


def test_cc3m_and_cc12m_have_no_header(tmp_path: Path) -> None:
    texts = [line.split("\t")[0] for line in CC3M.splitlines()]
    (tmp_path / "Train_GCC-training.tsv").write_text(CC3M)
    assert read(tmp_path / "Train_GCC-training.tsv") == (texts, {})
    (tmp_path / "cc12m.tsv").write_text(
        "".join("\t".join(reversed(row.split("\t"))) + "\n" for row in CC3M.splitlines())
    )
    assert read(tmp_path / "cc12m.tsv") == (texts, {})


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int8(), pa.string()),
        pa.dictionary(pa.uint32(), pa.large_string()), pa.list_(pa.string()), pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 1), pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)  # fmt: skip
def test_every_type_of_text_in_parquet_is_text(kind: pa.DataType, tmp_path: Path) -> None:
    texts: list[Any] = [text or None for text in TEXTS]
    if hasattr(kind, "value_field"):
        texts = [[text] for text in texts]
    pq.write_table(pa.table({"uid": ["u"] * len(texts), "text": pa.array(texts, kind)}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (TAKEN, SKIPPED)


def test_a_category_of_pandas_is_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"TEXT": pd.Categorical([text or None for text in TEXTS]), "NSFW": pd.Categorical(["no"] * 6)})
    frame.to_parquet(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == (TAKEN, SKIPPED)


def test_the_first_of_the_captions_of_a_picture_is_taken(tmp_path: Path) -> None:
    """As COCO has five of each, which tell of one subject; the others are counted."""
    rows = [["a red cat", "a cat that is red"], [], None, ["", "two mugs", None, "a pair of mugs"], [" "]]
    pq.write_table(pa.table({"captions": pa.array(rows, pa.list_(pa.string()))}), tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"captions": row}) + "\n" for row in rows))
    skipped = {"empty": 3, "another of its row": 2}
    assert read(tmp_path / "a.parquet") == read(tmp_path / "a.jsonl") == (["a red cat", "two mugs"], skipped)


def test_what_is_no_text_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    cells = ["NaN", "null", "3", "-Infinity", "true", '{"raw": "a"}', "[[3]]", '"\\ud800"', '""', '"a red cat"']
    rows = ['{"url": "u"}', *(f'{{"caption": {cell}}}' for cell in cells), "not json", "[]", '{"caption": "\xff"}']
    (tmp_path / "a.jsonl").write_bytes("\n".join([*rows, '{"caption": "two mugs"}']).encode("latin-1"))
    skipped = {"empty": 5, "no text": 5, "not UTF-8": 1, "damaged row": 2}
    assert read(tmp_path / "a.jsonl") == (["a red cat", "two mugs"], skipped)


def test_json_lines_as_pandas_writes_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"TEXT": ["a/b", None, float("nan"), "北京 \U0001f600"], "similarity": [0.3, None, 1, 2]})
    frame.to_json(tmp_path / "a.ndjson", orient="records", lines=True)
    assert read(tmp_path / "a.ndjson") == (["a/b", "北京 \U0001f600"], {"empty": 2})


def test_bytes_of_parquet_that_are_no_text_are_counted(tmp_path: Path) -> None:
    cells = pa.array([b"a red cat", b"a b\xffd byte", None, b"two mugs"], pa.binary())
    bad = pa.StringArray.from_buffers(4, *cells.buffers()[1:], cells.buffers()[0])
    for column in (cells, bad):
        pq.write_table(pa.table({"TEXT": column}), tmp_path / "c.parquet")
        assert read(tmp_path / "c.parquet") == (["a red cat", "two mugs"], {"empty": 1, "not UTF-8": 1})


@pytest.mark.parametrize("values", [[1, 2], [0.5, float("nan")], [{"raw": "a"}], [[{"raw": "a"}]], [True]])
def test_a_caption_column_of_another_type_is_refused(values: list, tmp_path: Path) -> None:
    pq.write_table(pa.table({"TEXT": values}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r'column "TEXT" of .* holds .*, but captions must be text, or lists of it'):
        read(tmp_path / "c.parquet")


# The words of a caption.


@given(st.text(max_size=2000))
def test_a_clean_caption_is_one_short_line_and_stays_as_it_is(raw: str) -> None:
    text = clean(raw)
    assert len(text) <= MAX_CHARACTERS
    assert text == " ".join(text.split()) and all(
        c.isprintable() or unicodedata.category(c) in ("Cf", "Cn") for c in text
    )
    assert clean(text) == text or {*text} & {*'<&"'}


FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"


@pytest.mark.parametrize(
    "text",
    [
        "I <3 my cat, he is > dog", "a < b > c", "x <y> z", "<PERSON> at the beach", "AT&T & co", "&nosuch; &notit;",
        f"a {FAMILY} at sea", ENGLAND, "\u2764\ufe0f", "\U0001f44b\U0001f3fd", "1\ufe0f\u20e3", "می\u200cخواهم",
        "\U0001faea", '"Keep calm"', 'a 22" balloon', "!!!",
    ],
)  # fmt: skip
def test_what_is_no_markup_stays(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<a href='x'>Yale</a> Ribbon\tCutting", "Yale Ribbon Cutting"),
        ("Orchid Jungle<br>Dresses<BR/>", "Orchid Jungle Dresses"),
        ('a <span class=meta id="a>b">(AP)</span>, b', "a (AP), b"),
        ("a<!-- <b> -->cat", "a cat"),
        ("Tom &amp; Jerry &amp;amp; &copy; &#233;&#xe9;", "Tom & Jerry &amp; © éé"),
        ("muntjac (&lt;i&gt;Truong Son&lt;/i&gt;) 1 &lt; 2", "muntjac (Truong Son) 1 < 2"),
        ('"22"" Frozen ""Bubble"" Balloon"', '22" Frozen "Bubble" Balloon'),
        ('""', ""),
        ("soft\u00adhyphen\u200b \ufeffa\u202eb", "softhyphen ab"),
        ("\u200d a \u200c\u200d", "a"),
        ("a\x00b\udc80c\u2028d\xa0e", "a b c d e"),
        ("word " * 100, ("word " * 60).strip()),
    ],
)
def test_markup_entities_and_what_cannot_be_seen_go(raw: str, text: str) -> None:
    assert clean(raw) == text


def test_a_long_caption_is_cut_between_characters_and_not_inside_one() -> None:
    assert len(clean("x" * 1000)) == MAX_CHARACTERS
    for shift in range(len(FAMILY)):
        cut = clean("x" * shift + FAMILY * 100)
        assert (len(cut) - shift) % len(FAMILY) == 0 and len(cut) > MAX_CHARACTERS - len(FAMILY)


def test_cleaning_takes_no_time_on_hostile_texts() -> None:
    began = time.process_time()
    for evil in ('<a href="', "<!--", "<a ", "&", "<b a='", "<a" + " x=y" * 3, "<a" + " " * 9, FAMILY, '"'):
        clean(evil * (1_000_000 // len(evil)))
    assert time.process_time() - began < 5


# Captions that say what another one said.


class _OneByOne:
    """As datasketch itself does it."""

    def __init__(self) -> None:
        self._index, self._texts = MinHashLSH(threshold=NEAR_DUPLICATE, num_perm=64), []

    def new(self, text: str) -> bool:
        text = plain(text)
        sketch = MinHash(num_perm=64, seed=1)
        sketch.update_batch([text[at : at + 4].encode() for at in range(max(1, len(text) - 3))])
        if any(alike(text, self._texts[int(str(key))]) >= NEAR_DUPLICATE for key in self._index.query(sketch)):
            return False
        self._index.insert(str(len(self._texts)), sketch)
        self._texts.append(text)
        return True


def test_many_captions_at_once_are_told_apart_as_one_by_one() -> None:
    index = torch.arange(1500)
    captions = panel_captions(sample_individuals("training", index), sample_scenes("training", index))
    texts = [*captions, "", "a", "ab", "北京 caf\u00e9 \U0001f600", "北京 caf\u00e9 \U0001f600!", *captions[:5]]
    one_by_one = _OneByOne()
    expected = [one_by_one.new(text) for text in texts]
    assert 20 < expected.count(False) < 200
    for size in (1, 7, 400, len(texts)):
        said = Said(NEAR_DUPLICATE, BANDS, BAND)
        assert [new for at in range(0, len(texts), size) for new in said.new(texts[at : at + size])] == expected


def test_the_same_words_are_known_for_ever_and_like_ones_for_a_while() -> None:
    first = (
        "a red striped cat with a hat and a long scarf smiles at the beach on a sunny day in the early summer of May"
    )
    said = Said(NEAR_DUPLICATE, BANDS, BAND, window=10)
    assert said.new([first, first.replace("sunny", "sunnny")]) == [True, False]
    assert all(said.new([f"{number} {number * number} other words {'x' * number}" for number in range(30)]))
    assert said.new([first.upper() + "!", first.replace("sunny", "sunnny")]) == [False, True]


def test_texts_that_all_share_most_words_cost_no_more_each_the_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """As grid prompts of one list of scenes do."""
    compared = 0

    def counted(one: str, other: str) -> float:
        nonlocal compared
        compared += 1
        return alike(one, other)

    monkeypatch.setattr(likeness, "alike", counted)
    scenes = "at the beach, in the snow, on a table, under a tree, in a city at night"
    texts = [f"{number:x} cat {scenes}" for number in range(2**20, 2**20 + 3000)]
    said = Said(1.0, 8, 8)
    assert all(said.new(texts))
    assert 1000 < compared <= likeness.MOST_COMPARED * len(texts)
    assert not any(said.new([f"{text}!" for text in texts[::100]]))


@pytest.mark.parametrize("batch", [1, 3, 50])
def test_a_limit_takes_the_beginning_of_what_there_is_and_tells_of_it_alone(
    batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ["a red cat", "", "A RED cat", "two mugs", "two mugs!", "\xff", "an old ship", "", "a kite", "a red cat"]
    (tmp_path / "a.txt").write_bytes("\n".join(rows).encode("latin-1"))
    whole = ["a red cat", "two mugs", "an old ship", "a kite"]
    monkeypatch.setattr("dsd.curate.captions._BATCH", batch)
    assert read(tmp_path / "a.txt", 5) == (whole, {"empty": 2, "near-duplicate": 3, "not UTF-8": 1})
    before = [{}, {"empty": 1, "near-duplicate": 1}, {"empty": 1, "near-duplicate": 2, "not UTF-8": 1}]
    for limit, skipped in enumerate([*before, before[2] | {"empty": 2}], start=1):
        assert read(tmp_path / "a.txt", limit) == (whole[:limit], skipped)


# Captions on the disk.


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl", "jsonl.gz", "parquet"])
def test_captions_are_read_from_a_store_as_from_the_disk(ending: str, tmp_path: Path) -> None:
    rows = ["a red cat", "two mugs, in snow", "an old ship"]
    local = tmp_path / f"a.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"TEXT": rows}), local)
    else:
        header = {"csv": "TEXT", "tsv": "TEXT"}.get(ending)
        lines = {"csv": [f'"{row}"' for row in rows], "txt": rows, "tsv": rows}
        lines = lines.get(ending, [json.dumps({"caption": row}) for row in rows])
        content = "\n".join([header, *lines] if header else lines).encode()
        local.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with s3_server() as bucket:
        (Place.of(bucket) / local.name).write_atomic(local.read_bytes())
        for address in (str(local), f"{bucket}/{local.name}"):
            assert [caption.text for caption in CaptionFile(address, 9)] == rows


def test_two_columns_of_one_name_in_parquet_are_one_sentence(tmp_path: Path) -> None:
    column = pa.array(["a red cat"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["TEXT", "TEXT"]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match="has two columns 'TEXT'; leave one"):
        list(CaptionFile(str(tmp_path / "a.parquet"), 1))


def test_what_tables_hold_for_nothing_is_no_caption(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("TEXT\nNaN\nNone\nnull\n<NA>\na null vector on a wall\n")
    source = CaptionFile(str(tmp_path / "a.csv"), 9)
    assert [caption.text for caption in source] == ["a null vector on a wall"] and source.skipped == {"empty": 4}


def test_what_a_file_system_says_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        list(CaptionFile(str(tmp_path / "m[12].csv"), 1))
    assert "\n" not in str(told.value) and "%s" not in str(told.value)


class _Ending:
    """Captions of a file that turns out to be damaged."""

    def __init__(self) -> None:
        self.skipped: dict[str, int] = {}

    def __iter__(self) -> Iterator[Caption]:
        yield from (Caption(text=str(number)) for number in range(SHARD + 1))
        raise UserError("damaged")


def test_captions_that_cannot_be_read_to_their_end_are_not_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        Captions.keep(_Ending(), tmp_path)
    with pytest.raises(UserError, match="missing"):
        Captions.find(tmp_path)
    kept = Captions.keep(Captions.of([Caption(text="a")]), tmp_path)
    assert [caption.text for caption in Captions.find(tmp_path)] == ["a"] and kept.count == 1


def test_kept_captions_are_those_that_were_read_and_a_unit_reads_its_own(tmp_path: Path) -> None:
    texts = [f"caption {number} {'x' * (number % 7)}" for number in range(20_000)]
    (tmp_path / "a.txt").write_text("\n".join(["", *texts]))
    kept = Captions.keep(CaptionFile(str(tmp_path / "a.txt"), 20_000), tmp_path / "units")
    assert Captions.find(tmp_path / "units") == kept == pickle.loads(pickle.dumps(kept))
    taken = [caption.text for caption in CaptionFile(str(tmp_path / "a.txt"), 20_000)]
    assert [caption.text for caption in kept] == taken and kept.count == len(taken) > 2 * SHARD
    assert kept.skipped["empty"] == 1
    for start, stop in ((0, 1), (SHARD - 3, SHARD + 3), (5, 2 * SHARD + 5), (kept.count - 2, kept.count + 9)):
        assert [caption.text for caption in kept.between(start, stop)] == taken[start:stop]
    config = recipe("tiny").curate
    units = Units(captions=kept, config=dataclasses.replace(config, unit_size=4096))
    assert [caption.text for unit in units for caption in unit.captions] == taken
    assert [units.size(number) for number in range(len(units))] == [len(unit.captions) for unit in units]
    assert [units.seed(number) for number in range(len(units))] == [unit.seed for unit in units]
    assert len(pickle.dumps(units)) < 10_000


def test_captions_of_earlier_datasets_are_read(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps({"taken": ["a", "b", "c"], "skipped": {"empty": 2}}))
    found = Captions.find(tmp_path)
    assert ([caption.text for caption in found], found.count, found.skipped) == (["a", "b", "c"], 3, {"empty": 2})
    assert [caption.text for caption in found.between(1, 9)] == ["b", "c"]


@pytest.mark.parametrize("content", ["", "[", "[]", '["a"]', '["a", "c"]', "[1, 2]", "5", None])
def test_damaged_captions_are_one_sentence(content: str | None, tmp_path: Path) -> None:
    Captions.keep(Captions.of([Caption(text="a"), Caption(text="b")]), tmp_path)
    path = tmp_path / "captions" / "00000.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=r"00000\.json\" is (damaged|missing).*; bring it back"):
        Captions.find(tmp_path).between(0, 2)
    if content is not None:
        (tmp_path / "captions.json").write_text(content)
        with pytest.raises(UserError, match=r"captions\.json\" is damaged"):
            Captions.find(tmp_path)


def test_the_length_of_a_file_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dsd.curate.captions.WINDOW", 1 << 10)
    monkeypatch.setattr("dsd.curate.captions._BATCH", 1 << 10)
    monkeypatch.setattr("dsd.curate.claimed.SHARD", 1 << 10)
    (tmp_path / "a.txt").write_text("".join(f"caption {number} of many {number % 97}\n" for number in range(30_000)))
    peaks = []
    for count in (5_000, 20_000):
        tracemalloc.start()
        assert Captions.keep(CaptionFile(str(tmp_path / "a.txt"), count), tmp_path / str(count)).count == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(peaks)
    assert peaks[1] - peaks[0] < 15_000 * 20, "bytes; a text alone has more"
