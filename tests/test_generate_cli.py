"""`dsd generate` with many pictures: folders, tables, seeds, what is there already, and what is told."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from PIL import Image

from dsd.backbones.adapter import save_adapter
from dsd.backbones.registry import load_backbone
from dsd.cli.main import main
from dsd.sampling import Sampling


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    transformer = load_backbone(tiny.schnell(), text=False, vae=False).transformer
    metadata = tiny.metadata(base=tiny.schnell(), frame_size=(32, 32), sampling=Sampling(steps=1))
    save_adapter(folder, tiny.random_updates(transformer), metadata)
    return folder


@pytest.fixture
def words(adapter: Path, tmp_path: Path, monkeypatch: Any) -> list[str]:
    """A command that lacks its pictures, prompts and place, in a folder with three pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for number in range(3):
        tiny.picture((32, 48), seed=number).save(tmp_path / "in" / f"{number}.png")
    return ["generate", "--model.adapter", str(adapter)]


def run(capsys: Any, *command: str, status: int = 0) -> tuple[list[str], str]:
    out = [] if "--out" in command else ["--out", "out"]
    assert main([*command, *out]) == status
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.out.split(), said.err


def pictures(folder: str = "out") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("[0-9]*.png"))}


def test_seeds_are_random_unless_told_and_told_in_any_case(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat"]
    first, _ = run(capsys, *asked, "--n", "2")
    run(capsys, *asked, "--n", "2", "--out", "other")
    assert len({*pictures(), *pictures("other")}) == 4, "four random seeds"
    seed = int(Path(first[0]).stem.partition("-")[2])
    again, _ = run(capsys, *asked, "--seed", str(seed), "--out", "again")
    assert Path(again[0]).name == Path(first[0]).name
    one, other = (np.asarray(Image.open(path), dtype=int) for path in (first[0], again[0]))
    assert np.abs(one - other).max() <= 1
    assert json.loads(Path(again[0]).with_suffix(".json").read_text())["seed"] == seed


def test_the_same_command_again_draws_what_is_missing(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat", "a dog"]
    first, _ = run(capsys, *asked, "--n", "2")
    before = pictures()
    again, said = run(capsys, *asked, "--n", "2")
    assert again == first and pictures() == before and "all is drawn already" in said
    Path(first[1]).unlink()
    Path(first[2]).write_bytes(b"")
    third, _ = run(capsys, *asked, "--n", "3")
    assert set(first) < set(third) and len(third) == 6
    assert {Path(path).name.partition("-")[0] for path in third} == {"000", "001"}, "a number a prompt"
    assert before.items() <= pictures().items(), "of the seeds of before"
    other, _ = run(capsys, *asked, "--n", "3", "--fit", "pad")
    assert not {*other} & {*third}, "other settings are other pictures"


def test_told_seeds_count_up_and_overlap_is_drawn_once(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat"]
    first, _ = run(capsys, *asked, "--seed", "5", "--n", "2")
    assert [Path(path).name for path in first] == ["000-5.png", "000-6.png"]
    stamps = {path: os.stat(path).st_mtime_ns for path in first}
    again, _ = run(capsys, *asked, "--seed", "5", "--n", "3")
    assert again == [*first, "out/000-7.png"] and {path: os.stat(path).st_mtime_ns for path in first} == stamps


def test_every_picture_of_a_folder_is_drawn_and_shown_on_a_sheet(words: list[str], capsys: Any) -> None:
    Path("in/notes.txt").write_text("no picture")
    Path("in/.hidden.png").write_text("no picture")
    paths, said = run(capsys, *words, "--image", "in", "--prompt", "a cat", "a dog", "--seed", "1")
    assert [Path(path).name for path in paths] == [f"{number:03d}-1.png" for number in range(6)]
    told = [json.loads(Path(path).with_suffix(".json").read_text()) for path in paths]
    assert [one["references"] for one in told] == [["0.png"]] * 2 + [["1.png"]] * 2 + [["2.png"]] * 2
    sheet = Image.open("out/sheet.png")
    assert sheet.width > 2 * 64 and sheet.height > 6 * 64 and "sheet.png" in said


def test_a_table_says_what_is_drawn_and_paths_are_relative_to_it(words: list[str], capsys: Any) -> None:
    Path("in/jobs.csv").write_text(
        "image,prompt,seed,n,width,height,negative_prompt,text_scale,fit\n"
        '0.png,"a cat, at sea",3,2,,,,,\n'
        "1.png,a dog,4,,64,32,rain,2.5,stretch\n"
    )
    rows: list[dict[str, Any]] = [
        {"image": "0.png", "prompt": "a cat, at sea", "seed": 3, "n": 2},
        {"image": ["1.png"], "prompt": "a dog", "seed": 4, "width": 64, "height": 32, "negative_prompt": "rain",
         "text_scale": 2.5, "fit": "stretch"},
    ]  # fmt: skip
    Path("in/jobs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    paths, said = run(capsys, *words, "--jobs", "in/jobs.csv")
    assert [Path(path).name for path in paths] == ["000-3.png", "000-4.png", "001-4.png"]
    told = json.loads(Path("out/001-4.json").read_text())
    assert (told["width"], told["height"], told["negative_prompt"], told["text_scale"]) == (64, 32, "rain", 2.5)
    assert told["fit"] == ["stretched from 48x32 to 64x32"] and "stretched from 48x32" in said
    again, said = run(capsys, *words, "--jobs", "in/jobs.jsonl")
    assert again == paths and "drawn already" in said, "the same jobs in another file"


def test_two_rows_of_one_kind_are_two_pictures(words: list[str], capsys: Any) -> None:
    Path("jobs.jsonl").write_text('{"image": "in/0.png", "prompt": "a cat"}\n' * 2)
    paths, _ = run(capsys, *words, "--jobs", "jobs.jsonl")
    assert len({*paths}) == 2
    assert run(capsys, *words, "--jobs", "jobs.jsonl")[0] == paths


def test_bad_rows_lose_no_good_ones_and_are_told_before_anything_is_drawn(words: list[str], capsys: Any) -> None:
    rows = [
        {"image": "in/0.png", "prompt": "a cat"}, {"image": "in/none.png", "prompt": "a cat"}, {"image": "in/0.png"},
        {"image": "in/0.png", "prompt": "a cat", "seed": 1.5}, {"image": "in/0.png", "prompt": "a cat", "width": 33},
        {"image": ["in/0.png", "in/1.png"], "prompt": "a cat"}, {"image": "in/0.png", "prompt": "a", "fit": "padd"},
        {"image": "in/0.png", "prompt": "a", "text_scale": True}, {"image": 3, "prompt": "a"},
        {"image": "in/0.png", "prompt": "a", "n": 0}, {"image": "in/0.png", "prompt": "a", "seed": 1 << 64},
    ]  # fmt: skip
    Path("jobs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nno json\n")
    paths, said = run(capsys, *words, "--jobs", "jobs.jsonl", status=2)
    assert len(paths) == 1 and len(pictures()) == 1
    assert "11 of 12 jobs were not drawn" in said.splitlines()[-1]
    for number, hint in {
        2: "none.png", 3: "no prompt", 4: "must be a whole number", 5: "must be multiples of 8", 6: "2 reference",
        7: 'did you mean "pad"', 8: "text_scale is True", 9: "must be text", 10: "n is 0", 11: "must be from 0 to",
        12: "no JSON",
    }.items():  # fmt: skip
        assert [line for line in said.splitlines() if f'row {number} of "jobs.jsonl"' in line and hint in line], number


@pytest.mark.parametrize(
    ("name", "content", "hint"),
    [
        ("jobs.jsonl", b'{"image": "in/0.png", "promt": "a cat"}', 'did you mean "prompt"?'),
        ("jobs.csv", b"image,prompt\nin/0.png,a cat, at sea\n", "more cells than the header"),
        ("jobs.csv", b"\xff\xfe\x00", "jobs.csv"),
        ("jobs.csv", b"", "holds no job"),
        ("jobs.csv", b'image,prompt\nin/0.png,"a cat\nin/1.png,a dog\n', "no table with a header"),
        ("jobs.csv", b"image,image,prompt\nin/0.png,in/1.png,a cat\n", "two columns 'image'"),
        ("jobs.jsonl", b'{"image": "in/0.png", "prompt": "a \\ud800"}', "no text of Unicode"),
        ("jobs.jsonl", b'{"image": "in/0.png", "prompt": "a", "negative_prompt": "\\ud800"}', "no text of Unicode"),
        ("jobs.jsonl", b"[]", "must hold an object"),
        ("jobs.txt", b"x", "no table of jobs"),
        ("jobs.jsonl", None, "there is no table of jobs"),
    ],
)
def test_a_table_that_is_none_is_one_sentence(
    name: str, content: bytes | None, hint: str, words: list[str], capsys: Any
) -> None:
    if content is not None:
        Path(name).write_bytes(content)
    _, said = run(capsys, *words, "--jobs", name, status=2)
    assert hint in said and said.startswith("dsd: error:") and said.count("\n") == 1
    assert not Path("out").exists()


def test_what_a_picture_was_made_from_is_inside_and_beside_it_unless_switched_off(
    words: list[str], adapter: Path, capsys: Any
) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cät, 猫", "--seed", "7"]
    path = Path(run(capsys, *asked)[0][0])
    inside: Any = Image.open(path)
    beside = json.loads(path.with_suffix(".json").read_text())
    assert inside.text["prompt"] == beside["prompt"] == "a cät, 猫" and inside.text["seed"] == "7"
    assert beside["model"] == tiny.schnell() and beside["adapter"] == str(adapter)
    assert beside["fit"] == ["cropped from 48x32 to 32x32"] and beside["steps"] == 1
    plain = Path(run(capsys, *asked, "--no-metadata", "--out", "plain")[0][0])
    bare: Any = Image.open(plain)
    assert not bare.text and not plain.with_suffix(".json").exists()
    assert inside.tobytes() == bare.tobytes()


def test_a_negative_prompt_and_the_fit_change_the_picture(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat", "--seed", "7"]
    for more in ([], ["--negative-prompt", "a dog"], ["--fit", "pad"], ["--fit", "stretch"]):
        run(capsys, *asked, *more)
    assert len({Image.open(f"out/{number:03d}-7.png").tobytes() for number in range(4)}) == 4


def test_words_that_are_cut_or_unknown_are_told(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--seed", "7"]
    _, said = run(capsys, *asked, "--prompt", "a red cat at sea")
    assert "warning" not in said
    _, said = run(capsys, *asked, "--prompt", "a red cat in the zoo at night on the left")
    assert '"zoo at night on the left" is cut off, since this model reads 8 tokens' in said
    assert '"zoo": this model knows no such word' in said and "knows: " in said and "striped" in said


@pytest.mark.parametrize("seed", [str(1 << 64), str(-(1 << 70)), "-1", str((1 << 63) - 1)])
def test_a_seed_out_of_range_is_one_sentence(seed: str, words: list[str], capsys: Any) -> None:
    _, said = run(capsys, *words, "--image", "in/0.png", "--prompt", "a", "--n", "2", f"--seed={seed}", status=2)
    assert f"--seed is {seed}, but must be from 0 to" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("more", "hint"),
    [
        (["--image", "in", "in/0.png", "--prompt", "a"], "a folder among several"),
        (["--image", "empty", "--prompt", "a"], "holds no picture"),
        (["--image", "in/0.png", "--prompt", "a", "--n", "0"], "--n is 0"),
        (["--image", "in/0.png", "--prompt", " "], "no prompt"),
        (["--image", "in/0.png", "--prompt", "a \udcff"], "no text of Unicode"),
        (["--image", "in/0.png", "--prompt", "a", "--out", "x.jpg"], "written as PNG"),
        (["--image", "in/0.png", "--prompt", "a", "--height", "80000000", "--width", "8"], "at most 40 million"),
        (["--image", "in/0.png", "--prompt", "a", "--out", "file"], "cannot write"),
        (["--image", "in/0.png", "--prompt", "a", "--out", "file/below"], "cannot write"),
        (["--image", "in/0.png", "--prompt", "a", "--out", "empty/x.png/"], "is a folder"),
        (["--image", "in/0.png", "--prompt", "a", "b", "--out", "x.png"], "is one file"),
        (["--image", "in/0.png", "--prompt", "a", "--out", "in/0.png"], "would be lost"),
        (["--image", "in/0.png", "--prompt", "a", "--steps", "3"], 'did you mean "--model.steps"'),
        (["--image", "in/0.png", "--prompt", "a", "--count", "3"], "does not know --count"),
        (["--jobs", "in/x.csv", "--prompt", "a"], "both given"),
        (["--image", "http://x/y.png", "--prompt", "a"], "download it first"),
        (["--image", "in/0.png", "--prompt", "a", "--width", "0"], "width is 0"),
        (["--image", "in/0.png", "--prompt", "a", "--model.steps", "0"], "steps is 0"),
        (["--image", "in/0.png", "--prompt", "a\0b"], "prompt holds a NUL"),
        (["--image", "in/0.png", "--prompt", "a", "--negative-prompt", "\0"], "negative_prompt holds a NUL"),
        (["--image", "in/0.png", "--prompt", "a", "--model.text-scale", "nan"], "text_scale"),
        (["--image", "in/0.png", "in/1.png", "--prompt", "a"], "2 reference pictures"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_one_sentence(more: list[str], hint: str, words: list[str], capsys: Any) -> None:
    Path("empty/x.png").mkdir(parents=True)
    Path("file").touch()
    _, said = run(capsys, *words, *more, status=2)
    assert hint in said and said.count("\n") == 1 and said.startswith("dsd: error: ")


def test_one_file_is_written_where_it_is_asked_for(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat", "--out", "x/one.png"]
    assert run(capsys, *asked)[0] == ["x/one.png"]
    assert sorted(path.name for path in Path("x").iterdir()) == ["one.json", "one.png"]


def test_a_name_that_is_no_utf8_is_read_and_told(words: list[str], capsysbinary: Any) -> None:
    os.rename("in/0.png", "in/\udcff.png")
    assert main([*words, "--image", "in/\udcff.png", "--prompt", "a cat", "--out", "out"]) == 0
    (told,) = Path("out").glob("*.json")
    assert json.loads(told.read_text())["references"] == ["\udcff.png"]


def test_a_damaged_record_is_told(words: list[str], capsys: Any) -> None:
    asked = [*words, "--image", "in/0.png", "--prompt", "a cat"]
    run(capsys, *asked)
    record = next(Path("out/drawn").iterdir())
    for content in ("{", '{"number": 0, "seed": 1, "pictures": ["../../x.png"]}', "[]"):
        record.write_text(content)
        _, said = run(capsys, *asked, status=2)
        assert "is damaged" in said and "delete it" in said
