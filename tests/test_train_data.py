"""Bad data by the real command: one sentence, status 2, and nothing is left behind."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from damage_parts import (
    Damage,
    command,
    copied,
    empty,
    folder_for,
    garbled,
    half,
    told,
)  # fmt: skip

from dsd.cli.main import main


def cut_shard(folder: Path) -> None:
    half(folder / "pairs" / "00001.parquet")


def lost_shard(folder: Path) -> None:
    (folder / "pairs" / "00001.parquet").unlink()


def swapped_shards(folder: Path) -> None:
    first, second = (folder / "pairs" / f"0000{number}.parquet" for number in (0, 1))
    first.rename(folder / "x")
    second.rename(first)
    (folder / "x").rename(second)


def rewritten_shard(folder: Path) -> None:
    shard = folder / "pairs" / "00001.parquet"
    pq.write_table(pq.read_table(shard).slice(0, 3), shard)


def manifest(change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "manifest.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return damage


def shard(**values: Any) -> Damage:
    return manifest(lambda content: content["shards"][1].update(values))


def moved_out(folder: Path) -> Path:
    away = folder.parent / "away.parquet"
    (folder / "pairs" / "00001.parquet").rename(away)
    return away


def absolute(folder: Path) -> None:
    shard(path=str(moved_out(folder)))(folder)


def above(folder: Path) -> None:
    moved_out(folder)
    shard(path="../away.parquet")(folder)


def below_and_above(folder: Path) -> None:
    moved_out(folder)
    shard(path="pairs/../../away.parquet")(folder)


def linked(folder: Path) -> None:
    (folder / "pairs" / "00001.parquet").symlink_to(moved_out(folder))


def linked_folder(folder: Path) -> None:
    (folder / "pairs").rename(folder.parent / "pairs")
    (folder / "pairs").symlink_to(folder.parent / "pairs")


BAD_DATA: dict[str, Damage] = {
    "no folder": shutil.rmtree,
    "an empty folder": lambda folder: (shutil.rmtree(folder), folder.mkdir()),
    "a file": lambda folder: (shutil.rmtree(folder), folder.write_text("x")),
    "a folder without a manifest": lambda folder: (folder / "manifest.json").unlink(),
    "a folder for the manifest": lambda folder: folder_for(folder / "manifest.json"),
    "half a manifest": lambda folder: half(folder / "manifest.json"),
    "an empty manifest": lambda folder: empty(folder / "manifest.json"),
    "a garbled manifest": lambda folder: garbled(folder / "manifest.json"),
    "a manifest that is a list": lambda folder: (folder / "manifest.json").write_text("[]"),
    "a manifest that is deep": lambda folder: (folder / "manifest.json").write_text("[" * 100_000),
    "no shards": manifest(lambda content: content.update(shards=[])),
    "shards that are text": manifest(lambda content: content.update(shards="x")),
    "a shard that is text": manifest(lambda content: content.update(shards=["x"])),
    "a shard twice": manifest(lambda content: content["shards"].append(content["shards"][0])),
    "an unknown kind": shard(kind="trios"),
    "a kind that is a number": shard(kind=3),
    "a kind of another folder": shard(kind="rejects"),
    "a path that is a number": shard(path=3),
    "a path with a NUL": shard(path="pairs/\0.parquet"),
    "rows in words": shard(rows="six"),
    "-1 rows": shard(rows=-1),
    "no digest": shard(sha256=None),
    "another digest": shard(sha256="0" * 64),
    "cut": cut_shard,
    "lost": lost_shard,
    "a folder for a shard": lambda folder: folder_for(folder / "pairs" / "00001.parquet"),
    "swapped": swapped_shards,
    "rewritten": rewritten_shard,
    "absolute": absolute,
    "above": above,
    "below and above": below_and_above,
    "linked": linked,
    "linked folder": linked_folder,
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data_are_one_sentence_and_leave_nothing(
    kind: str, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(dataset, tmp_path / "data"))
    BAD_DATA[kind](data)
    there = sorted(tmp_path.iterdir())
    told(command(data, tmp_path / "deep" / "run"), capsys)
    assert sorted(tmp_path.iterdir()) == there


def test_own_data_that_cannot_be_read_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows: list[dict[str, object]] = [{"reference": "a.png", "target": "b.png", "caption": "x"}]
    for name, content in (("no picture", None), ("no such picture", b"x"), ("a number", b"x")):
        if content is not None:
            (data / "a.png").write_bytes(content)
        (data / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)) if name != "a number" else "3")
        told(command(data, tmp_path / "deep" / "run"), capsys)
        assert sorted(tmp_path.iterdir()) == [data]


@pytest.mark.parametrize("name", ["", "manifest.json", "pairs", "pairs/00001.parquet"])
def test_a_dataset_that_may_not_be_read_is_one_sentence(
    name: str, dataset: Path, nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = copied(dataset, nobody / "data")
    (data / name).chmod(0)
    assert str(data) in told(command(data, nobody / "run"), capsys)
    assert [path.name for path in nobody.iterdir()] == ["data"]
    (data / name).chmod(0o700)


@pytest.mark.parametrize("name", ["", "metadata.jsonl", "a.png"])
def test_own_data_that_may_not_be_read_is_one_sentence(
    name: str, nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = nobody / "data"
    data.mkdir()
    for picture in ("a.png", "b.png"):
        tiny.picture((32, 32)).save(data / picture)
    row = {"reference": "a.png", "target": "b.png", "caption": "x"}
    (data / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (data / name).chmod(0)
    assert str(data) in told(command(data, nobody / "run"), capsys)
    assert [path.name for path in nobody.iterdir()] == ["data"]
    (data / name).chmod(0o700)


def test_own_pictures_that_were_swapped_are_told_once_they_are_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    rows = []
    for number in range(8):
        for kind in ("a", "b"):
            tiny.picture((32, 32), seed=2 * number + (kind == "b")).save(data / f"{kind}{number}.bmp")
        rows.append({"reference": f"a{number}.bmp", "target": f"b{number}.bmp", "caption": f"cat {number}"})
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for path in data.iterdir():
        os.utime(path, (1e9, 1e9))  # as from an archive
    assert main(command(data, run)) == 0
    shutil.rmtree(run / "adapter")
    contents = [(data / f"b{number}.bmp").read_bytes() for number in range(8)]
    for number in range(8):
        (data / f"b{number}.bmp").write_bytes(contents[number - 1])
        os.utime(data / f"b{number}.bmp", (1e9, 1e9))
    shutil.rmtree(run / "latents")
    assert re.search(r"a run with pairs = \w+ \(now \w+\)", told(command(data, run), capsys))


def test_a_place_whose_name_is_no_text_is_one_sentence(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is no text of Unicode" in told(command(dataset, Path(f"{tmp_path}/o\udcff")), capsys)
