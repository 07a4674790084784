"""Claims about `dsd data check`: whatever is wrong with a dataset is found and named, and nothing where nothing is."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import audit_parts as parts
import curation_parts
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audit_parts import Rows, rewrite, said
from chat_server import chat_server
from PIL import Image

from dsd.audit.check import check_dataset
from dsd.audit.findings import Findings, Row
from dsd.curate.pipeline import curate
from dsd.data.store import FUNNEL, MANIFEST
from dsd.errors import UserError
from dsd.images import encode_png


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return parts.curated(tmp_path_factory.mktemp("finished") / "dataset")


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return parts.copied(finished, tmp_path / "dataset")


def found(folder: Path, level: str = "wrong") -> list[tuple[str, str]]:
    findings, _ = check_dataset(folder)
    return [(one.where, one.what) for one in findings if one.level == level]


def test_nothing_is_wrong_with_what_was_curated(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "check", finished, "--strict")
    rows = {kind: pq.read_table(finished / kind).num_rows for kind in ("grids", "pairs", "rejects")}
    assert status == 0 and "is finished" in out and "nothing is wrong" in out
    assert f"{rows['grids']} grids, {rows['pairs']} pairs, {rows['rejects']} rejects" in out
    panels = 4 * rows["grids"]
    assert f"{panels + rows['grids']} different pictures decoded" in out


def test_pictures_need_not_be_decoded(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, "pairs", lambda rows: rows[0].update(reference={"bytes": b"no picture", "path": None}))
    assert said(capsys, "check", folder)[0] == 1
    status, out, _ = said(capsys, "check", folder, "--no-pictures")
    assert status == 0 and "pictures not decoded" in out


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (_cut, "is damaged"),
        (_flip, "not those that were recorded (SHA-256)"),
        (lambda path: path.write_bytes(b""), "is damaged"),
        (Path.unlink, "the file is missing"),
        (lambda path: shutil.copy(path.with_name("00001.parquet"), path), "not those that were recorded (SHA-256)"),
    ],
    ids=["cut", "flipped", "empty", "missing", "another"],
)
@pytest.mark.parametrize("kind", ["pairs", "rejects", "grids"])
def test_a_damaged_shard_is_named_and_the_others_are_read(
    damage: Callable[[Path], None], sentence: str, kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{kind}/00000.parquet"
    damage(folder / name)
    status, out, err = said(capsys, "check", folder)
    assert status == 1 and "Traceback" not in err
    assert any(line.startswith(f"wrong  {name} ") and sentence in line for line in out.splitlines()), out
    assert f"{kind}/00001.parquet" not in out or kind == "grids" or "twice" in out


def _second_id(rows: Rows) -> None:
    rows[1]["id"] = rows[0]["id"]


def _empty_bytes(rows: Rows) -> None:
    rows[0]["target"] = {"bytes": b"", "path": None}


def _cut_picture(rows: Rows) -> None:
    rows[0]["reference"]["bytes"] = rows[0]["reference"]["bytes"][:-40]


def _set(**values: Any) -> Callable[[Rows], None]:
    return lambda rows: rows[0].update(values)


@pytest.mark.parametrize(
    ("kind", "change", "row", "sentence"),
    [
        ("pairs", _second_id, 2, "the id is there twice, first in the same kind of rows"),
        ("pairs", _set(target_caption=""), 1, "a caption to train on is empty"),
        ("pairs", _set(target_caption=" …\n"), 1, "a caption to train on is empty"),
        ("pairs", _set(reference_caption=None), 1, 'the column "reference_caption" is empty'),
        ("pairs", _set(reference_panel="0" * 16), 1, "a panel of a pair is not on its sheet among the grids"),
        ("pairs", _set(grid="0" * 16), 1, "the sheet of a pair is not among the grids"),
        ("rejects", _set(grid="0" * 16), 1, "the sheet of a reject is not among the grids"),
        ("pairs", _set(reference=None), 1, 'the column "reference" is empty'),
        ("pairs", _empty_bytes, 1, 'a picture of "target" has no bytes'),
        ("pairs", _cut_picture, 1, 'a picture of "reference" cannot be decoded'),
        ("grids", _set(image={"bytes": b"<html>", "path": None}), 1, 'a picture of "image" cannot be decoded'),
        ("grids", lambda rows: rows[0]["panel_captions"].pop(), 1, "a sheet that was cut has 3 panels, not 4"),
    ],
)
def test_a_row_that_is_wrong_is_named(
    kind: Any, change: Callable[[Rows], object], row: int, sentence: str, folder: Path
) -> None:
    rewrite(folder, kind, change)
    assert (f"{kind}/00000.parquet, row {row}", sentence) in found(folder)


@pytest.mark.parametrize("kind", ["pairs", "rejects", "grids"])
def test_a_lost_row_shows_in_the_sums(kind: Any, folder: Path) -> None:
    rewrite(folder, kind, lambda rows: rows.pop())
    wrong = found(folder)
    assert any(where == FUNNEL and "but rows show" in what for where, what in wrong), wrong


def _more(name: str, by: int = 1) -> Callable[[Any], None]:
    return lambda content: content.update({name: content[name] + by})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_more("pairs", 2), 'are said of "pairs", but rows show'),
        (_more("kept"), "does not add up"),
        (_more("captions"), "does not add up"),
        (lambda funnel: funnel["diversity"].update({"kept scenes": 99}), '99 are said of "kept scenes"'),
        (lambda funnel: funnel.update(sheets_refused={"odd": 2}, grid_prompts=9, captions=9), '2 are said of "refused'),
        (lambda funnel: funnel.update(rejected={"a mood": sum(funnel["rejected"].values())}), '"rejected: a mood"'),
        (lambda funnel: funnel.update(kept="three"), "must be a whole number"),
        (lambda funnel: funnel.update(rejected=[1]), "Funnel.rejected"),
        (lambda funnel: funnel.update(won=1), 'has no field "won"'),
    ],
)
def test_sums_that_are_wrong_are_named(change: Callable[[Any], object], sentence: str, folder: Path) -> None:
    parts.edit_json(folder / FUNNEL, change)
    wrong = found(folder)
    assert any(where == FUNNEL and sentence in what for where, what in wrong), wrong


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0\0"])
@pytest.mark.parametrize("name", [FUNNEL, "config.json", "sources.json", "units/00001.json", "units/captions.json"])
def test_a_file_of_ours_that_cannot_be_read_is_named(content: str, name: str, folder: Path) -> None:
    (folder / name).write_text(content)
    wrong = found(folder)
    assert any(where in (name, "config.json") for where, _ in wrong), wrong


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        ("units/00001.json", lambda record: record["funnel"].update(kept=1), "is damaged"),
        ("units/sheets-00001.json", lambda record: record.update(sha256=["0" * 64]), "tells of other sheets"),
        ("config.json", lambda config: config.update(steps=3), "steps is 3, but 2 in the manifest.json"),
        ("sources.json", lambda sources: sources.update(captions="0" * 64), "it is not what was written"),
        ("sources.json", lambda sources: sources.update(captions="0" * 64, sha256=None), "it is not what was written"),
        ("units/captions/00000.json", lambda texts: texts.append("a dog"), "other captions than the index tells of"),
        ("units/captions.json", lambda index: index["skipped"].update(empty=9), "not those that the curation took"),
    ],
)
def test_a_changed_record_is_named(name: str, change: Callable[[Any], object], sentence: str, folder: Path) -> None:
    parts.edit_json(folder / name, change)
    assert any(sentence in what for _, what in found(folder)), found(folder)


def test_how_it_ran_may_differ_from_the_manifest(folder: Path) -> None:
    parts.edit_json(folder / "config.json", lambda config: config.update(chat_batch=1, teacher_batch=1))
    assert not found(folder)


def test_a_file_that_nobody_names_is_named(folder: Path) -> None:
    shutil.copy(folder / "pairs/00000.parquet", folder / "pairs/00009.parquet")
    (folder / "pairs/.00001.parquet.0a1b2c3d.tmp").touch()
    assert ("pairs/00009.parquet", "the manifest.json does not name this file, but `datasets` reads it") in found(
        folder
    )
    assert ("pairs/.00001.parquet.0a1b2c3d.tmp", "a process that was killed left this file behind") in found(
        folder, "note"
    )


def test_a_file_outside_of_the_folder_is_not_read(folder: Path) -> None:
    shutil.copy(folder / "pairs/00000.parquet", folder.parent / "away.parquet")
    parts.edit_json(folder / MANIFEST, lambda content: content["shards"][0].update(path="../away.parquet"))
    assert ("../away.parquet", "the file lies outside of the dataset's folder") in found(folder)


def test_other_columns_are_named(folder: Path) -> None:
    path = folder / "pairs/00000.parquet"
    table = pq.read_table(path).drop_columns(["subject"])
    table = table.set_column(table.column_names.index("score"), "score", pa.array(["?"] * table.num_rows))
    pq.write_table(table.replace_schema_metadata(None), path)
    wrong = [what for where, what in found(folder) if where == "pairs/00000.parquet"]
    assert 'the column "subject" is missing' in wrong
    assert 'the column "score" holds string, but must hold double' in wrong


def test_text_that_is_no_unicode_ends_in_a_sentence(folder: Path) -> None:
    path = folder / "pairs/00000.parquet"
    table = pq.read_table(path)
    broken = pa.array([b"\xff\xfe"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("subject"), table.schema.field("subject"), broken), path)
    assert any(where == "pairs/00000.parquet" and "is damaged" in what for where, what in found(folder))


def test_captions_that_all_say_one_thing_are_wrong_and_a_few_are_a_note(folder: Path) -> None:
    kept = len({row["target_panel"] for row in pq.read_table(folder / "pairs").to_pylist()})
    for number in range(3):
        if (folder / f"pairs/{number:05d}.parquet").exists():
            rewrite(
                folder,
                "pairs",
                lambda rows: [row.update(reference_caption="A", target_caption="a") for row in rows],
                number,
            )
    sentence = f'"a" is the caption of {kept} of {kept} kept panels: who wrote it repeats itself'
    assert ("captions", sentence) in found(folder)


def test_two_panels_with_one_caption_are_a_note(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, "pairs", lambda rows: rows[0].update(target_caption=rows[0]["reference_caption"]))
    notes = found(folder, "note")
    assert ("pairs/00000.parquet, row 1", "both pictures of a pair have the same caption") in notes
    assert said(capsys, "check", folder)[0] == 0
    assert said(capsys, "check", folder, "--strict")[0] == 1


def test_a_thousand_bad_rows_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(folder, "pairs", lambda rows: [row.update(target_caption="") for row in rows])
    status, out, _ = said(capsys, "check", folder)
    lines = [line for line in out.splitlines() if "a caption to train on is empty" in line]
    assert status == 1 and len(lines) == 1 and "rows, this is the first" in lines[0]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One whose chat server stopped in its third unit."""
    folder = tmp_path_factory.mktemp("unfinished") / "dataset"
    captions = curation_parts.write_captions(folder.parent / "captions.parquet")
    with chat_server() as server:
        config = curation_parts.config(captions, f"openai:test@{server.url}", chat_batch=1)
        server.closed_after = 3 * 11 + 1 + 5  # a unit of three sheets asks 3 * (1 + 4 + 6) times
        with pytest.raises(UserError, match="closed"):
            curate(config, folder)
    return folder


def test_an_unfinished_dataset_says_so(unfinished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "check", unfinished)
    assert status == 0 and "unfinished: " in out and "of at most 3 units are judged" in out
    assert said(capsys, "check", unfinished, "--strict")[0] == 1
    with pytest.raises(UserError, match="no finished dataset"):
        from dsd.data.sources import open_source

        open_source(unfinished)


def test_a_damaged_shard_of_an_unfinished_dataset_is_named(unfinished: Path, tmp_path: Path) -> None:
    folder = parts.copied(unfinished, tmp_path / "dataset")
    drawn = max((folder / "grids").glob("*.parquet"))
    judged = min((folder / "rejects").glob("*.parquet"))
    assert not found(folder)
    for file in (drawn, judged):
        _flip(file)
    assert {where for where, what in found(folder) if "SHA-256" in what} == {
        f"grids/{drawn.name}",
        f"rejects/{judged.name}",
    }


def test_a_dataset_elsewhere_is_checked_like_one_here(folder: Path) -> None:
    place = parts.to_memory(folder, f"memory://{uuid.uuid4().hex}/dataset")
    findings, summary = check_dataset(place)
    assert not list(findings) and summary[0] == f'"{place}" is finished'
    (place / "pairs/00000.parquet").remove()
    (place / "rejects/00000.parquet").write_atomic(b"PAR1")
    findings, _ = check_dataset(str(place))
    named = {one.where: one.what for one in findings}
    assert named["pairs/00000.parquet"] == "the file is missing"
    assert "is damaged" in named["rejects/00000.parquet"]


def test_what_is_no_dataset_is_a_mistake(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "check", tmp_path / "nothing")[0] == 2
    (folder / MANIFEST).write_text("{")
    status, _, err = said(capsys, "check", folder)
    assert status == 2 and "is damaged" in err and err.count("\n") == 1
    parts.edit_json(folder / FUNNEL, lambda _: None)
    (folder / MANIFEST).write_text(json.dumps({"schema_version": 9, "recipe": {}, "shards": []}))
    status, _, err = said(capsys, "check", folder)
    assert status == 2 and "schema version 9" in err


def _own(folder: Path, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        (folder / f"{number}.png").write_bytes(encode_png(Image.new("RGB", (16, 16), colour)))
    (folder / "large.png").write_bytes(encode_png(Image.new("RGB", (16, 24), "white")))
    (folder / "broken.png").write_bytes(b"<html>")
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def _row(reference: str = "0.png", target: str = "1.png", caption: str = "a cat") -> dict[str, str]:
    return {"reference": reference, "target": target, "caption": caption}


def test_nothing_is_wrong_with_good_data_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _own(tmp_path / "own", [_row(), _row("1.png", "2.png", "a dog")])
    status, out, _ = said(capsys, "check", own)
    assert status == 0 and "data of your own" in out and "read 2 rows, of which 2 can be used" in out


def test_bad_rows_of_ones_own_are_each_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        _row(),
        _row(),
        _row("missing.png"),
        _row("broken.png"),
        _row(caption=" "),
        _row("large.png"),
        _row("2.png", "2.png", "a dog"),
    ]
    status, out, _ = said(capsys, "check", _own(tmp_path / "own", rows))
    assert status == 1 and "read 7 rows, of which 4 can be used" in out
    lines = out.splitlines()
    for row, sentence in (
        (2, "the same pictures and caption are there twice"),
        (3, "missing.png"),
        (4, "broken.png"),
        (5, "must hold a sentence"),
    ):
        assert any(line.startswith("wrong ") and f"row {row} " in line and sentence in line for line in lines), out
    assert any("row 7 " in line and "its own reference" in line and line.startswith("note") for line in lines)
    assert any("2 sizes of pictures" in line for line in lines)


def test_columns_of_ones_own_may_have_other_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = _own(tmp_path / "own", [{"a": "0.png", "b": "1.png", "c": "a cat"}])
    status, out, _ = said(capsys, "check", own)
    assert status == 1 and "there is not one row to train on" in out
    words = ("--columns.reference", "a", "--columns.target", "b", "--columns.caption", "c")
    assert said(capsys, "check", own, *words)[0] == 0


def test_rows_are_counted_by_what_is_the_matter_and_files_are_each_named() -> None:
    findings = Findings()
    findings.note("a", "odd")
    for place in (Row(2, "b"), Row(1, "c"), "b", "c"):
        findings.wrong(place, "bad")
    named = [(one.level, one.where, one.count) for one in findings]
    assert named == [("wrong", "b, row 2", 2), ("wrong", "b", 1), ("wrong", "c", 1), ("note", "a", 1)]
    assert (findings.count("wrong"), findings.count("note")) == (3, 1)
