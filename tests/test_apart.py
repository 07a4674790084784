"""No command writes into what it reads, which would be another model, or other data, afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import tiny
from training_parts import dataset_in

from dsd.audit.show import show_dataset
from dsd.backbones.adapter import save_adapter
from dsd.backbones.registry import load_backbone
from dsd.cli.main import main
from dsd.errors import UserError


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that commands read."""
    folder = tmp_path_factory.mktemp("read")
    shutil.copytree(tiny.schnell(), folder / "base")
    base = str(folder / "base")
    updates = tiny.random_updates(load_backbone(base, text=False, vae=False).transformer)
    save_adapter(folder / "adapter", updates, tiny.metadata(base=base, frame_size=(32, 32)))
    dataset_in(folder / "data")
    (folder / "pictures").mkdir()
    for name in ("a.png", "sheet.png"):
        tiny.picture((32, 32)).save(folder / "pictures" / name)
    (folder / "pictures" / "prompts.txt").write_text("a {subject} at the beach\n", encoding="utf-8")
    return folder


def bytes_in(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


TRAIN = "train tiny --data {data} --train.base {base}"
DRAW = "generate --model.adapter {adapter} --prompt a"
EVALUATE = "evaluate tiny --data {pictures} --adapter {adapter} --pairs {data}"
PLACES = [
    (TRAIN, "data"), (TRAIN, "data/run"), (TRAIN, "base"), (TRAIN, "base/run"), (TRAIN, "."),
    (f"{DRAW} --image {{pictures}}", "pictures"), (f"{DRAW} --image {{pictures}}/a.png", "adapter/drawn"),
    (f"{DRAW} --image {{pictures}}/a.png", "base"), (f"{DRAW} --image {{pictures}}/sheet.png", "pictures"),
    (f"{DRAW} --image {{pictures}}/sheet.png", "pictures/sheet.png"),
    (EVALUATE, "pictures"), (EVALUATE, "pictures/out"), (EVALUATE, "adapter"), (EVALUATE, "base"), (EVALUATE, "data"),
    ("export --adapter {adapter}", "base/exported"),
    ("curate tiny --curate.captions {pictures}/prompts.txt --curate.teacher {base}", "base/dataset"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "out"), PLACES)
def test_what_is_read_is_not_written_into(
    command: str, out: str, read: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_in(read)
    named = {name: read / name for name in ("base", "adapter", "data", "pictures")}
    assert main([word.format(**named) for word in command.split()] + ["--out", str(read / out)]) == 2
    said = capsys.readouterr().err
    assert any(words in said for words in ("give a folder apart", "give a folder outside", "give another"))
    assert said.count("\n") == 1 and bytes_in(read) == before


def test_a_page_takes_the_place_of_a_page_alone(read: Path, tmp_path: Path) -> None:
    (tmp_path / "page.html").touch()
    show_dataset(read / "data", tmp_path / "page.html")
    with pytest.raises(UserError, match=r"would be lost; give a name that ends in \.html"):
        show_dataset(read / "data", read / "data" / "manifest.json")


def test_models_of_the_hub_are_no_folders_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "tiny", "--data", str(tmp_path / "nowhere"), "--train.base", "owner/name", "--out", str(tmp_path)]
    assert main(words) == 2
    assert "there are no data at" in capsys.readouterr().err
