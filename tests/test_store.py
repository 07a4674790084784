"""Claims about datasets on disk: rows come back as they were, content decides bytes, `datasets` shows pictures."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import tiny
from huggingface_hub import DatasetCard
from PIL import Image
from s3_server import s3_server

from dsd.data.records import (
    Caption,
    Description,
    Grid,
    GridPrompt,
    Model,
    Pair,
    Panel,
    Reject,
    Sheet,
    content_id,
)
from dsd.data.rows import PNG, EncodedOnce, Kind, Pictures, to_pair, to_parquet, to_reject, to_row, to_sheet
from dsd.data.store import DatasetReader, DatasetWriter, read_columns, read_row, read_shard
from dsd.errors import UserError
from dsd.files import DamagedFile
from dsd.images.writing import Format
from dsd.places import Place

JUDGE = Model(name="vlm", revision="1", template="compact/judge 1")


def pair(number: int) -> Pair:
    return Pair(
        id=content_id("pair", number),
        grid="g",
        reference_panel="a",
        target_panel="b",
        reference=tiny.picture((16, 8), seed=number),
        target=tiny.picture((16, 8), seed=number + 1),
        reference_caption="a cat",
        target_caption="a cat “at sea” 北京",
        subject="cat",
        first_details="red",
        second_details="",
        comparison="same colour",
        judge=JUDGE,
    )


def sheets() -> list[Sheet]:
    caption = Caption(text="a cat")
    prompt = GridPrompt(caption=caption.id, subject="cat", scenes=("a", "b", "c", "d"), text="a grid", writer=JUDGE)
    grid = Grid(prompt=prompt.id, image=tiny.picture(), seed=2**63 - 1, teacher=Model(name="flux", revision="2"))
    words = tuple(Description(subject="cat", details=f"{n}", caption=f"cat {n}") for n in range(4))
    return [
        Sheet(caption=caption, prompt=prompt, grid=grid, descriptions=words),
        Sheet(caption=caption, prompt=prompt, grid=grid, reason="panel 1 of 4 is blank"),
        Sheet(caption=caption, prompt=None, grid=None, reason="no grid prompt: no JSON object"),
    ]


def rejects() -> list[Reject]:
    return [Reject(pair=pair(9), outcome="failed", reason="no verdict: empty reply", words="")]


def write(folder: Path, pairs: int = 3) -> Path:
    writer = DatasetWriter(folder)
    shards = [writer.write_shard("grids", 0, sheets()), writer.write_shard("rejects", 0, rejects())]
    for number in (0, 10) if pairs else ():
        shards.append(writer.write_shard("pairs", number, [pair(number + n) for n in range(pairs)]))
    writer.finish(shards, {"steps": 3}, {"pairs": 2 * pairs})
    return folder


def test_records_survive_their_rows() -> None:
    assert to_pair(to_row(pair(1))) == pair(1)
    assert to_reject(to_row(rejects()[0])) == rejects()[0]


def test_records_survive_the_disk(tmp_path: Path) -> None:
    reader = DatasetReader(write(tmp_path))
    assert list(reader.pairs()) == [pair(n) for n in (0, 1, 2, 10, 11, 12)]
    assert list(reader.rejects()) == rejects()
    assert list(reader.sheets()) == sheets()
    assert len(reader) == 6
    assert reader.funnel() == {"pairs": 6}
    assert reader.manifest.recipe == {"steps": 3}
    reader.verify()


def test_a_refused_sheet_keeps_its_picture() -> None:
    row = to_row(sheets()[1])
    assert to_sheet({**row, "image": row["image"]}).grid == sheets()[1].grid


def test_a_shard_has_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard 3 of pairs would be empty"):
        DatasetWriter(tmp_path).write_shard("pairs", 3, [])


def test_equal_records_give_equal_bytes() -> None:
    assert to_parquet("pairs", [pair(1), pair(2)]) == to_parquet("pairs", [pair(1), pair(2)])
    assert to_parquet("pairs", [pair(1), pair(2)]) != to_parquet("pairs", [pair(2), pair(1)])


def test_a_picture_of_many_rows_is_encoded_once(tmp_path: Path) -> None:
    one, other, third = (tiny.picture((16, 8), seed=n) for n in range(3))
    pairs = [replace(pair(n), reference=a, target=b) for n, (a, b) in enumerate([(one, other), (other, one)])]
    rejected = [replace(rejects()[0], pair=replace(pair(9), reference=one, target=third))]
    encoded: list[Image.Image] = []

    class Counting:
        def bytes_of(self, image: Image.Image) -> bytes:
            encoded.append(image)
            return PNG.bytes_of(image)

    once = EncodedOnce(Counting())
    assert to_parquet("pairs", pairs, once) == to_parquet("pairs", pairs)
    assert to_parquet("rejects", rejected, once) == to_parquet("rejects", rejected)
    assert [id(image) for image in encoded] == [id(image) for image in (one, other, third)]
    writer = DatasetWriter(tmp_path)
    made = writer.shards(3, {"pairs": pairs, "films": [], "rejects": rejected})
    assert {kind: shard for kind, (shard, _) in made.items()} == {
        "pairs": writer.write_shard("pairs", 3, pairs),
        "rejects": writer.write_shard("rejects", 3, rejected),
    }


def test_ids_are_decided_by_content() -> None:
    image = tiny.picture()
    assert content_id("a", image, 1) == content_id("a", image.copy(), 1)
    others = [("b", image, 1), ("a", tiny.picture(seed=1), 1), ("a", image.convert("L"), 1), ("a", image, 2)]
    assert len({content_id(kind, *parts) for kind, *parts in [("a", image, 1), *others]}) == 5
    panel = Panel(grid="g", number=1, image=image, description=Description(caption="one"))
    again = Panel(grid="g", number=1, image=image, description=Description(caption="other"))
    assert panel.id == again.id
    assert Caption(text="\ud800").id


def test_datasets_opens_the_folder_with_pictures(tmp_path: Path) -> None:
    folder = str(write(tmp_path / "dataset"))
    cache = str(tmp_path / "cache")
    loaded = datasets.load_dataset(folder, cache_dir=cache, split="train")
    assert isinstance(loaded, datasets.Dataset)
    assert len(loaded) == 6
    assert isinstance(loaded.features["reference"], datasets.Image)
    assert loaded[0]["target"].tobytes() == pair(0).target.tobytes()
    assert loaded[5]["target_caption"] == pair(12).target_caption
    for name, rows in (("rejects", 1), ("grids", 3)):
        assert len(datasets.load_dataset(folder, name, cache_dir=cache, split="train")) == rows


def test_datasets_streams_pictures_from_an_object_store(tmp_path: Path) -> None:
    with s3_server() as bucket:
        folder = Place.of(bucket) / "dataset"
        writer = DatasetWriter(folder)
        writer.finish([writer.write_shard("pairs", 0, [pair(0), pair(1)])], {}, {})
        reader = DatasetReader(str(folder))
        reader.verify()
        assert list(reader.pairs()) == [pair(0), pair(1)]
        files = f"{folder}/pairs/*.parquet"
        rows = list(datasets.load_dataset("parquet", data_files=files, split="train", streaming=True))
        assert [row["reference"].tobytes() for row in rows] == [
            pair(0).reference.tobytes(),
            pair(1).reference.tobytes(),
        ]
        assert rows[0]["target_caption"] == pair(0).target_caption


def test_the_card_tells_the_hub_what_the_folder_holds(tmp_path: Path) -> None:
    card = DatasetCard.load(write(tmp_path) / "README.md").data.to_dict()
    assert card["license"] == "unknown" and card["size_categories"] == "n<1K"
    assert card["task_categories"] == ["text-to-image", "image-to-image"]
    names = [config["config_name"] for config in card["configs"]]
    assert names == ["pairs", "rejects", "grids"]
    told = {info["config_name"]: info for info in card["dataset_info"]}
    assert set(told) == set(names)
    assert card["configs"][0] == {
        "config_name": "pairs",
        "data_files": [{"split": "train", "path": "pairs/*.parquet"}],
        "default": True,
    }
    features = {feature["name"]: feature["dtype"] for feature in told["pairs"]["features"]}
    assert features["reference"] == "image" and features["score"] == "float64"
    assert told["pairs"]["splits"][0]["num_examples"] == 6
    info = datasets.load_dataset_builder(str(tmp_path), "grids", cache_dir=str(tmp_path / "cache")).info
    assert info.splits is not None and info.splits["train"].num_examples == 3


@pytest.mark.parametrize(("format", "starts"), [("webp", b"RIFF"), ("jpeg", b"\xff\xd8")])
def test_pictures_are_written_in_the_format_that_was_asked_and_sheets_keep_all_pixels(
    format: Format, starts: bytes, tmp_path: Path
) -> None:
    noise = [replace(pair(number), reference=tiny.picture((96, 96), seed=number)) for number in range(2)]
    writer = DatasetWriter(tmp_path, Pictures(format, 80))
    shards = [writer.write_shard("pairs", 0, noise), writer.write_shard("grids", 0, sheets())]
    writer.finish(shards, {}, {})
    assert to_row(noise[0], Pictures(format, 80))["reference"]["bytes"].startswith(starts)
    assert shards[0] == DatasetWriter(tmp_path, Pictures(format, 80)).write_shard("pairs", 0, noise)
    assert len(to_parquet("pairs", noise, Pictures(format, 30))) < len(to_parquet("pairs", noise))
    reader = DatasetReader(tmp_path)
    assert list(reader.sheets()) == sheets()
    for found, given in zip(reader.pairs(), noise, strict=True):
        assert found.reference.size == given.reference.size and found.id == given.id
        difference = np.abs(np.asarray(found.reference, float) - np.asarray(given.reference, float)).mean()
        assert 0 < difference < 40
    loaded = datasets.load_dataset(str(tmp_path), cache_dir=str(tmp_path / "cache"), split="train")
    assert isinstance(loaded, datasets.Dataset) and loaded[0]["reference"].size == (96, 96)


def test_a_text_that_is_no_unicode_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    broken: list[tuple[Kind, Any, str]] = [
        ("rejects", replace(rejects()[0], words="\ud800"), "words"),
        ("grids", replace(sheets()[0], descriptions=(Description(details="a\udfff"),) * 4), "panel_details"),
    ]
    for kind, record, column in broken:
        with pytest.raises(UserError, match=f"row 1 of {kind} cannot be written: its {column} is .*ud"):
            DatasetWriter(tmp_path).write_shard(kind, 0, [sheets()[1] if kind == "grids" else rejects()[0], record])
    assert not list(tmp_path.rglob("*"))


@pytest.mark.parametrize("seed", range(40))
def test_a_shard_with_any_other_byte_is_damaged_or_the_same(seed: int, tmp_path: Path) -> None:
    """Or holds other words, which its digest tells."""
    shard = write(tmp_path) / "pairs" / "00000.parquet"
    content, place = bytearray(shard.read_bytes()), random.Random(seed)
    content[place.randrange(len(content))] ^= place.randrange(1, 256)
    shard.write_bytes(content)
    with pytest.raises(DamagedFile, match="is missing or not what the manifest says"):
        DatasetReader(tmp_path).verify()
    try:
        assert len(list(read_shard(shard, to_pair))) <= 3
        read_columns(shard, ["id", "grid"])
        read_row(shard, 2, to_pair)
    except DamagedFile as error:
        assert "is damaged" in str(error)


def test_a_dataset_without_pairs_still_opens(tmp_path: Path) -> None:
    folder = write(tmp_path / "dataset", pairs=0)
    assert list(DatasetReader(folder).pairs()) == []
    assert len(datasets.load_dataset(str(folder), "rejects", cache_dir=str(tmp_path / "c"), split="train")) == 1


def test_another_schema_version_is_refused(tmp_path: Path) -> None:
    manifest = write(tmp_path) / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"schema_version": 3}))
    with pytest.raises(UserError, match="schema version 3, but this version of dsd reads 1 and 2"):
        DatasetReader(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", '{"schema_version": 1}', '{"schema_version": 1, "shards": [{}]}'])
def test_a_damaged_manifest_is_one_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        DatasetReader(tmp_path)


def test_what_is_missing_or_changed_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished dataset"):
        DatasetReader(tmp_path)
    reader = DatasetReader(write(tmp_path))
    shard = tmp_path / "pairs" / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UserError, match="not what the manifest says"):
        reader.verify()
    with pytest.raises(UserError, match="is damaged"):
        list(reader.pairs())
    shard.unlink()
    with pytest.raises(UserError, match="is missing"):
        list(reader.pairs())
