"""The user's own data, in each layout; and examples of several frames, from the data to the drawn pictures."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import diffusers
import pytest
import tiny
import torch
from PIL import Image
from training_parts import dataset_in, simple_pairs, small_config

from dsd.backbones.adapter import load_metadata
from dsd.cli.main import main
from dsd.data.latents import LatentCache
from dsd.data.own import Columns, OwnExample
from dsd.data.records import content_id
from dsd.data.sources import open_source
from dsd.errors import UserError
from dsd.frames import Film
from dsd.generate.two_frame import TwoFramePipeline
from dsd.train.trainer import train

ROWS = 6


def pictures_in(folder: Path) -> list[dict[str, Any]]:
    """Rows of a user's own folder: each reference has two targets."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(ROWS):
        names = {"reference": f"who{number // 2}.png", "target": f"scene{number}.jpg"}
        for kind, name in names.items():
            tiny.picture((40, 48), seed=number // 2 if kind == "reference" else 100 + number).save(folder / name)
        rows.append({**names, "caption": f"a red cat, scene {number}"})
    return rows


def jsonl_in(folder: Path) -> str:
    rows = pictures_in(folder)
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def csv_in(folder: Path) -> str:
    rows = pictures_in(folder)
    with (folder / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(folder)


def saved_to_disk_in(folder: Path) -> str:
    rows = pictures_in(folder / "pictures")
    for row in rows:
        row.update({name: str(folder / "pictures" / row[name]) for name in ("reference", "target")})
    table = datasets.Dataset.from_list(rows)
    for name in ("reference", "target"):
        table = table.cast_column(name, datasets.Image())
    table.save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def parquet_in(folder: Path) -> str:
    table = datasets.load_from_disk(saved_to_disk_in(folder))
    (folder / "parquet").mkdir()
    table.to_parquet(str(folder / "parquet" / "train-00000.parquet"))  # pyright: ignore[reportAttributeAccessIssue]
    return str(folder / "parquet")


def webdataset_in(folder: Path, caption: str = "caption.txt") -> str:
    rows = pictures_in(folder / "pictures")
    with tarfile.open(folder / "train-0000.tar", "w") as tar:
        for number, row in enumerate(rows):
            members = {
                "reference.png": (folder / "pictures" / row["reference"]).read_bytes(),
                "target.jpg": (folder / "pictures" / row["target"]).read_bytes(),
                caption: row["caption"].encode(),
            }
            for ending, content in members.items():
                info = tarfile.TarInfo(f"{number:04d}.{ending}")
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return str(folder / "train-0000.tar")


def documented_webdataset_in(folder: Path) -> str:
    return webdataset_in(folder, caption="txt")


WEB = Columns(reference="reference.png", target="target.jpg", caption="caption.txt")
LAYOUTS = [(jsonl_in, None), (csv_in, None), (saved_to_disk_in, None), (parquet_in, None), (webdataset_in, WEB)]
LAYOUTS += [(webdataset_in, None), (documented_webdataset_in, None)]
CONFIG = {"frame_size": (32, 32), "steps": 1, "sample_every": 9, "checkpoint_every": 9}


@pytest.mark.parametrize(("layout", "columns"), LAYOUTS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_layout_gives_the_same_examples(layout: Any, columns: Columns | None, tmp_path: Path) -> None:
    source = open_source(layout(tmp_path / "data" if layout in (jsonl_in, csv_in) else tmp_path), columns)
    found, again = list(source.examples()), list(source.examples())
    assert [example.caption for example in found] == [f"a red cat, scene {number}" for number in range(ROWS)]
    assert [example.id for example in found] == [example.id for example in again] and len({e.id for e in found}) == ROWS
    assert [found[0].grid == example.grid for example in found[:3]] == [True, True, False], "held out by reference"
    wanted = tiny.picture((40, 48), seed=1)
    assert found[2].references[0].tobytes() == wanted.tobytes()
    assert found[2].targets[0].size == (48, 40)


def test_a_student_trains_on_a_folder_of_one_s_own_by_the_command(tmp_path: Path, capsys: Any) -> None:
    diffusers.utils.logging.enable_progress_bar()
    folder = jsonl_in(tmp_path / "own")
    words = ["train", "tiny", "--data", folder, "--out", str(tmp_path / "run"), "--train.base", tiny.schnell()]
    words += ["--train.steps", "1", "--train.frame-size", "32", "32", "--train.held-out", "1", "--train.rank", "4"]
    words += ["--train.max-sequence-length", str(tiny.TEXT_TOKENS), "--train.batch-size", "2"]
    words += ["--train.sampling.steps", "1"]
    for start in ("new", "finished"):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert (start, out) == (start, f"{tmp_path / 'run' / 'adapter'}\n") and "Loading" not in err
    assert load_metadata(tmp_path / "run" / "adapter").frame_size == (32, 32)
    cache = LatentCache(tmp_path / "run" / "latents")
    assert len(cache) == ROWS and len(set(cache.grids)) == 3


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (1, "come from 1 grids .*, of which held_out = 4 would leave none to train on; none is held out"),
        (2, "come from 1 grids .*; none is held out, and the sample sheets show examples that are trained on"),
        (4, "come from 2 grids .*; held out are the examples 3, 4"),
    ],
)
def test_a_few_pairs_of_one_s_own_train(rows: int, words: str, tmp_path: Path, capsys: Any) -> None:
    folder = Path(jsonl_in(tmp_path / "own"))
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    (folder / "metadata.jsonl").write_text("\n".join(lines[:rows]))
    adapter = train(small_config(**CONFIG, held_out=4), open_source(folder), tmp_path / "run")
    assert (adapter / "adapter.safetensors").is_file()
    assert (tmp_path / "run" / "samples" / "step-0000001.png").is_file()
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize(("layout", "columns"), LAYOUTS[2:], ids=lambda value: getattr(value, "__name__", ""))
def test_other_layouts_train_the_same_student(layout: Any, columns: Columns | None, tmp_path: Path) -> None:
    config = small_config(**CONFIG)
    one = train(config, open_source(jsonl_in(tmp_path / "own")), tmp_path / "one")
    two = train(config, open_source(layout(tmp_path), columns), tmp_path / "two")
    assert (one / "adapter.safetensors").read_bytes() == (two / "adapter.safetensors").read_bytes()


BAD = [
    ({"reference": "gone.png"}, "gone.png"),
    ({"reference": ""}, "must hold a picture or the name of its file"),
    ({"caption": " "}, "must hold a sentence"),
    ({"caption": None}, 'the column "caption" is empty'),
    ({"target": 7}, "holds 7"),
    ({"target": []}, '"target" holds no picture'),
    ({"reference": []}, '"reference" holds no picture'),
    ({"caption": ["a", "b"]}, "2 captions for 1 targets"),
    ("not json", "line 3 is no JSON"),
    ("[" * 100_000, "line 3 is no JSON"),
    ([1], "must hold an object"),
    ([{"reference": "who0.png"}] * 9_999, r"line 3 holds .{100,150}… \(\d+,\d+ characters\), but must hold an object"),
    ({"reference": "who\0.png"}, r"cannot open the picture '.*who\\x00\.png' \(embedded null byte\)"),
    ({"reference": "x" * 9_999}, "x… .* characters"),
    ({"caption": [0] * 9_999}, "characters.*, but must hold a sentence"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=range(len(BAD)))
def test_a_bad_row_is_a_sentence_with_file_and_row_and_can_be_left_out(
    change: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(jsonl_in(tmp_path / "own"))
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines[2] = json.dumps({**json.loads(lines[2]), **change}) if isinstance(change, dict) else (
        change if isinstance(change, str) else json.dumps(change)
    )  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    with pytest.raises(UserError, match=rf'metadata\.jsonl", row 3: .*{words}.*--skip-bad-rows'):
        list(open_source(folder).examples())
    assert len(list(open_source(folder, skip_bad_rows=True).examples())) == ROWS - 1
    assert "1 rows were left out" in capsys.readouterr().err


UNLIKE = [
    ({"reference": ["who0.png", "who1.png"]}, "there are 2 references and 1 targets, where the first row has 1 and 1"),
    ({"target": ["scene0.jpg", "scene1.jpg"]}, "there are 1 references and 2 targets"),
    ({"target": "small.png"}, "a picture is 32 x 32 pixels high and wide, where the first one is 40 x 48"),
    ({"reference": "small.png"}, "give --train.frame-size"),
]


@pytest.mark.parametrize(("change", "words"), UNLIKE, ids=[words for _, words in UNLIKE])
def test_a_row_unlike_the_first_good_one_is_a_bad_row(change: Any, words: str, tmp_path: Path) -> None:
    folder = Path(jsonl_in(tmp_path / "own"))
    tiny.picture((32, 32)).save(folder / "small.png")
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    lines[0]["caption"], lines[3] = "", {**lines[3], **change}
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    found = list(open_source(folder, skip_bad_rows=True, one_size=True).examples())
    assert [example.caption[-1] for example in found] == ["1", "2", "4", "5"]
    lines[0]["caption"] = "a red cat, scene 0"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(UserError, match=rf'metadata\.jsonl", row 4: .*{words}.*--skip-bad-rows'):
        list(open_source(folder, one_size=True).examples())
    if "small" in str(change):
        assert len(list(open_source(folder).examples())) == ROWS


def test_a_damaged_picture_is_a_bad_row(tmp_path: Path) -> None:
    folder = Path(jsonl_in(tmp_path / "own"))
    (folder / "scene4.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"row 5: .*scene4\.jpg"):
        list(open_source(folder).examples())


@pytest.mark.parametrize("layout", [jsonl_in, csv_in])
def test_a_byte_order_mark_is_no_part_of_a_column_s_name(layout: Any, tmp_path: Path) -> None:
    folder = Path(layout(tmp_path / "own"))
    (path,) = folder.glob("metadata.*")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(list(open_source(folder).examples())) == ROWS


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    folder = Path(csv_in(tmp_path / "own"))
    path = folder / "metadata.csv"
    path.write_bytes(path.read_bytes().replace(b"a red cat", b"a r\xe9d cat"))
    with pytest.raises(UserError, match=r'metadata\.csv" is no table with a header, in UTF-8'):
        list(open_source(folder).examples())


def test_another_column_s_name_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no column "ref", only "reference", "target", "caption"; name yours with'):
        list(open_source(jsonl_in(tmp_path / "own"), Columns(reference="ref")).examples())


@pytest.mark.parametrize("layout", [jsonl_in, csv_in, parquet_in])
def test_a_single_file_is_read_as_its_folder_is(layout: Any, tmp_path: Path) -> None:
    folder = Path(layout(tmp_path / "own"))
    (path,) = (path for path in folder.iterdir() if path.suffix in (".jsonl", ".csv", ".parquet"))
    one, two = open_source(folder), open_source(path)
    assert [example.id for example in one.examples()] == [example.id for example in two.examples()]
    assert one.fingerprint == two.fingerprint
    (folder / "notes.md").write_text("nothing")
    with pytest.raises(UserError, match=r"no single file that can be read; give one that ends in .*\.parquet"):
        open_source(folder / "notes.md")


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    for name in ("nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(UserError, match="there are no data at"):
            open_source(name)
    (tmp_path / "notes.md").write_text("nothing")
    with pytest.raises(UserError, match="cannot be read as a dataset"):
        list(open_source(tmp_path).examples())


def test_other_content_is_other_data(tmp_path: Path) -> None:
    folder = Path(jsonl_in(tmp_path / "own"))
    prints = [open_source(folder).fingerprint, open_source(folder, Columns(group="caption")).fingerprint]
    shutil.copy(folder / "who0.png", folder / "who1.png")
    prints.append(open_source(folder).fingerprint)
    assert len(set(prints)) == 3
    dataset_in(tmp_path / "curated")
    assert open_source(tmp_path / "curated").total == 12


@pytest.mark.parametrize("layout", [jsonl_in, csv_in])
@pytest.mark.parametrize("name", [lambda path: str(path), lambda path: f"../{path.name}"], ids=["absolute", "beside"])
def test_another_picture_outside_the_folder_is_other_data(layout: Any, name: Any, tmp_path: Path) -> None:
    folder = Path(layout(tmp_path / "own"))
    outside = shutil.move(folder / "who0.png", tmp_path / "outside.png")
    (path,) = folder.glob("metadata.*")
    path.write_text(path.read_text().replace("who0.png", name(outside)))
    before = open_source(folder).fingerprint
    tiny.picture((40, 48), seed=77).save(outside)
    assert len(list(open_source(folder).examples())) == ROWS
    assert open_source(folder).fingerprint != before


@pytest.mark.parametrize(("layout", "columns"), LAYOUTS, ids=lambda value: getattr(value, "__name__", ""))
def test_files_that_no_row_can_use_make_no_other_data(layout: Any, columns: Columns | None, tmp_path: Path) -> None:
    place = Path(layout(tmp_path / "own"))
    before, folder = open_source(place, columns).fingerprint, place if place.is_dir() else place.parent
    (folder / ".DS_Store").write_bytes(b"of a file browser")
    (folder / ".cache").mkdir()
    (folder / ".cache" / "thumbnail.png").write_bytes(b"small")
    if layout is not parquet_in:
        (folder / "run").mkdir()
        (folder / "run" / "config.json").write_text("{}")
    assert open_source(place, columns).fingerprint == before


def test_a_run_inside_a_folder_that_is_read_whole_is_refused(tmp_path: Path, capsys: Any) -> None:
    folder = parquet_in(tmp_path)
    assert main(["train", "tiny", "--data", folder, "--out", f"{folder}/run"]) == 2
    assert "give a folder apart" in capsys.readouterr().err


def films(references: int, targets: int, count: int = 8) -> list[OwnExample]:
    """Examples of several frames; the second target is the first one, mirrored."""
    found = []
    for number in range(count):
        refs = tuple(tiny.picture(seed=10 * number + k) for k in range(references))
        first = tiny.picture(seed=10 * number + 5)
        shown = (first, first.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[:targets]
        identity = content_id("example", *refs, *shown)
        caption = f"a {('red', 'blue')[number % 2]} cat"
        found.append(OwnExample(id=identity, grid=str(number), references=refs, targets=shown, caption=caption))
    return found


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_three_references_and_two_targets_train_and_draw(family: str, tmp_path: Path) -> None:
    config = small_config(base=tiny.FAMILIES[family](), steps=2, reference_weight=0.5)
    adapter = train(config, films(3, 2), tmp_path / "run")
    metadata = load_metadata(adapter)
    assert metadata.film == Film.of(3, 2, 0.5)
    with Image.open(tmp_path / "run" / "samples" / "step-0000002.png") as sheet:
        assert sheet.width > 7 * 32
    pipeline: Any = TwoFramePipeline.from_pretrained(config.base, adapter=adapter)
    pipeline.set_progress_bar_config(disable=True)
    references = [tiny.picture(seed=seed) for seed in (1, 2, 3)]
    seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    drawn = pipeline(["a red cat", "a blue cat"], [references, references[::-1]], generator=seeds).images
    assert [len(film) for film in drawn] == [2, 2] and drawn[0][0].size == (32, 32)
    (alone,) = pipeline("a red cat", references, generator=torch.Generator().manual_seed(1)).images
    assert alone[1].tobytes() == drawn[0][1].tobytes() and alone[0].tobytes() != alone[1].tobytes()
    pt = pipeline("a red cat", references, num_frames=1, output_type="pt").images
    assert pt.shape == (1, 3, 32, 32)
    assert pipeline("a red cat", references, output_type="latent").images.shape[1] == 5
    with pytest.raises(UserError, match=r"1 reference pictures were given for one result, but .* with 3; give 3"):
        pipeline("a red cat", references[0])


def test_examples_of_several_frames_come_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    pictures_in(folder)
    row = {"reference": ["who0.png", "who1.png"], "target": ["scene0.jpg", "scene1.jpg"]}
    row["caption"] = ["at sea", "at night"]
    (folder / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (example,) = open_source(folder).examples()
    assert (len(example.references), len(example.targets), example.caption) == (2, 2, "at sea | at night")


def test_examples_of_different_numbers_of_frames_do_not_mix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 1 references and 1 targets, where others have 2 and 1"):
        train(small_config(), [*films(2, 1, 4), *films(1, 1, 4)], tmp_path)


def test_two_frames_are_the_bits_of_a_pair(tmp_path: Path) -> None:
    pairs = simple_pairs()
    same = [
        OwnExample(id=p.id, grid=p.grid, references=(p.reference,), targets=(p.target,), caption=p.target_caption)
        for p in pairs
    ]
    config = replace(small_config(), steps=2)
    one, two = (train(config, data, tmp_path / name) for name, data in (("pairs", pairs), ("films", same)))
    assert (one / "adapter.safetensors").read_bytes() == (two / "adapter.safetensors").read_bytes()


def test_the_command_draws_several_frames_from_several_references(tmp_path: Path, capsys: Any) -> None:
    adapter = train(small_config(steps=1, sample_every=9), films(2, 2), tmp_path / "run")
    for number in range(2):
        tiny.picture(seed=number).save(tmp_path / f"{number}.png")
    images = [str(tmp_path / f"{number}.png") for number in range(2)]
    words = ["generate", "--image", *images, "--prompt", "a red cat", "--model.adapter", str(adapter)]
    assert main([*words, "--model.steps", "1", "--seed", "0", "--out", str(tmp_path / "out")]) == 0
    assert sorted(path.name for path in (tmp_path / "out").glob("0*.png")) == ["000-0-0.png", "000-0-1.png"]
    assert main(["generate", "--image", images[0], *words[4:]]) == 2
    assert "give 2" in capsys.readouterr().err
