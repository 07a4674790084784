"""Claims about `dsd data`: what is wrong is found, and what is made of datasets keeps pictures and sums."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import audit_parts as parts
import pyarrow.parquet as pq
import pytest

from dsd.cli.main import main
from dsd.curate.funnel import Funnel
from dsd.data.store import DatasetReader


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset with kept and rejected pairs."""
    return parts.curated(tmp_path_factory.mktemp("data") / "dataset")


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """A copy to do harm to."""
    return parts.copied(made, tmp_path / "dataset")


def pictures(folder: Path, kind: str = "pairs") -> set[tuple[str, bytes, bytes]]:
    rows = [row for path in sorted(folder.glob(f"{kind}/*.parquet")) for row in pq.read_table(path).to_pylist()]
    return {(row["id"], row["reference"]["bytes"], row["target"]["bytes"]) for row in rows}


def funnel_of(folder: Path) -> Funnel:
    return Funnel.from_dict(DatasetReader(folder).funnel())


def test_a_sound_dataset_has_nothing_wrong(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(made)]) == 0
    assert "is finished" in capsys.readouterr().out


def rewritten(path: Path, change: Any) -> None:
    """A shard whose rows were changed, and the manifest that goes by it."""
    table = pq.read_table(path)
    rows = change(table.to_pylist())
    pq.write_table(type(table).from_pylist(rows, table.schema), path)


def cut_short(folder: Path) -> None:
    path = folder / "pairs" / "00000.parquet"
    path.write_bytes(path.read_bytes()[:-100])


def a_row_twice(folder: Path) -> None:
    rewritten(folder / "pairs" / "00000.parquet", lambda rows: [*rows[:-1], rows[0]])


def no_caption(folder: Path) -> None:
    rewritten(folder / "pairs" / "00000.parquet", lambda rows: [{**rows[0], "target_caption": ""}, *rows[1:]])


def no_picture(folder: Path) -> None:
    broken = {"bytes": b"\x89PNG no", "path": None}
    rewritten(folder / "pairs" / "00000.parquet", lambda rows: [{**rows[0], "target": broken}, *rows[1:]])


def a_file_less(folder: Path) -> None:
    (folder / "grids" / "00001.parquet").unlink()


def another_sum(folder: Path) -> None:
    funnel = json.loads((folder / "funnel.json").read_text())
    (folder / "funnel.json").write_text(json.dumps({**funnel, "kept": funnel["kept"] + 1}))


def a_stranger(folder: Path) -> None:
    shutil.copy(folder / "pairs" / "00000.parquet", folder / "pairs" / "00099.parquet")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut_short, "pairs/00000.parquet"),
        (a_row_twice, "the id is there twice"),
        (no_caption, "target_caption|a caption to train on is empty"),
        (no_picture, "cannot be decoded"),
        (a_file_less, "grids/00001.parquet"),
        (another_sum, "funnel.json"),
        (a_stranger, "pairs/00099.parquet"),
    ],
)
def test_what_is_wrong_is_named(harm: Any, said: str, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    harm(dataset)
    assert main(["data", "check", str(dataset)]) == 1
    out = capsys.readouterr().out
    assert any(words in out for words in said.split("|"))


def test_a_dataset_in_the_making_says_so_and_is_not_wrong(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dataset / "manifest.json").unlink()
    (dataset / "units" / "00001.json").unlink()
    assert main(["data", "check", str(dataset)]) == 0
    out = capsys.readouterr().out
    assert "unfinished: 2 of at most 3 units are judged, 1 more are drawn" in out
    (dataset / "units" / "00000.json").write_text('{"half')
    assert main(["data", "check", str(dataset)]) == 1
    assert "units/00000.json" in capsys.readouterr().out


def test_filtering_keeps_pictures_and_sums(made: Path, tmp_path: Path) -> None:
    reader = DatasetReader(made)
    subject = next(reader.pairs()).subject
    wanted = {pair.id for pair in reader.pairs() if pair.subject == subject}
    assert main(["data", "filter", str(made), "--where", f"subject = '{subject}'", "--out", str(tmp_path / "f")]) == 0
    assert {row[0] for row in pictures(tmp_path / "f")} == wanted
    assert pictures(tmp_path / "f") <= pictures(made)
    assert main(["data", "check", str(tmp_path / "f")]) == 0
    DatasetReader(tmp_path / "f").verify()


def test_a_column_that_is_not_there_is_one_sentence(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["data", "filter", str(made), "--out", str(tmp_path / "f")]
    assert main([*words, "--where", "subjekt = cat"]) == 2
    assert 'did you mean "subject"?' in capsys.readouterr().err
    assert main([*words, "--where", "subject = = cat"]) == 2
    assert not (tmp_path / "f").exists()


def test_halves_share_no_sheet_and_merged_again_are_the_whole(made: Path, tmp_path: Path) -> None:
    assert main(["data", "split", str(made), "--by", "grid", "--validation", "0.5", "--out", str(tmp_path / "s")]) == 0
    train, validation = tmp_path / "s" / "train", tmp_path / "s" / "validation"
    sides = [{pair.grid for pair in DatasetReader(side).pairs()} for side in (train, validation)]
    assert not sides[0] & sides[1]
    assert main(["data", "merge", str(train), str(validation), "--out", str(tmp_path / "m")]) == 0
    assert pictures(tmp_path / "m") == pictures(made)
    assert pictures(tmp_path / "m", "rejects") == pictures(made, "rejects")
    assert (funnel_of(tmp_path / "m").candidates, funnel_of(tmp_path / "m").kept) == (
        funnel_of(made).candidates, funnel_of(made).kept,
    )  # fmt: skip
    assert main(["data", "merge", str(tmp_path / "m"), str(made), "--out", str(tmp_path / "again")]) == 0
    assert pictures(tmp_path / "again") == pictures(made), "each row once"


def test_nothing_of_another_is_written_over(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = pictures(made)
    assert main(["data", "filter", str(made), "--where", "same", "--out", str(made)]) == 2
    assert pictures(made) == before
    assert main(["data", "show", str(made), "--out", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_the_page_shows_reasons_pairs_and_words(made: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["data", "show", str(made), "--out", str(page), "--pairs", "2", "--seed", "1"]) == 0
    text = page.read_text()
    reader = DatasetReader(made)
    assert text.count("data:image/png;base64,") >= 8
    assert next(iter(reader.rejects())).reason in text and "same colour" in text
    assert "http://" not in text.replace("http://127.0.0.1", "") and "<script" not in text
    assert main(["data", "show", str(made), "--out", str(page), "--pairs", "2", "--seed", "1"]) == 0
    assert page.read_text() == text
