"""Nothing wrong is trained on: what is damaged, of another run or has diverged is told in a sentence, and what is good
goes on with the same bits."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
import torch
from safetensors.torch import load_file
from training_parts import dataset_in, simple_pairs, small_config

from dsd.cli.main import main
from dsd.train import checkpoint
from dsd.train.trainer import train

Damage = Callable[[Path], object]
CONFIG = small_config(steps=6, checkpoint_every=2, sample_every=9)
CHECKPOINT = "checkpoints/step-0000006"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    dataset_in(folder)
    return folder


@pytest.fixture(scope="module")
def finished(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps, with the checkpoints of steps 4 and 6."""
    out = tmp_path_factory.mktemp("finished") / "run"
    train(CONFIG, dataset, out)
    return out


@pytest.fixture
def begun(finished: Path, tmp_path: Path) -> Path:
    """The same run, killed before it wrote its adapter."""
    return killed(finished, tmp_path)


def killed(finished: Path, tmp_path: Path) -> Path:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "adapter")
    return out


@pytest.fixture(scope="module")
def of_another_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run of another rank."""
    out = tmp_path_factory.mktemp("other") / "run"
    train(replace(CONFIG, rank=2), simple_pairs(), out)
    return out / CHECKPOINT


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter.safetensors")


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def command(data: Path | str, out: Path, *more: str) -> list[str]:
    """The words of a run of `CONFIG` on the command line."""
    names = ("base", "rank", "steps", "batch_size", "warmup", "held_out", "sample_every", "max_sequence_length",
             "checkpoint_every", "ema_decay")  # fmt: skip
    settings = {f"--train.{name.replace('_', '-')}": str(getattr(CONFIG, name)) for name in names}
    words = [word for pair in settings.items() for word in pair]
    return ["train", "tiny", "--data", str(data), "--out", str(out), *words, "--train.sampling.steps", "2", *more]


def told(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one sentence that a command ends with."""
    assert main(words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
    assert line.startswith("dsd: error: ")
    return line


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def one_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def folder_for(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, tuple[str, Damage]] = {
    **{f"tensors {d.__name__}": ("state.safetensors", d) for d in (half, empty, garbled, one_bit, folder_for)},
    "tensors missing": ("state.safetensors", Path.unlink),
    **{f"state {d.__name__}": ("state.json", d) for d in (half, empty, garbled, one_bit, folder_for)},
    "state missing": ("state.json", Path.unlink),
    "state is a list": ("state.json", lambda path: path.write_text("[]")),
    "state of another step": (
        "state.json",
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"step": 4})),
    ),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_newest_good_one_is_gone_on_from(
    kind: str, finished: Path, begun: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, damage = DAMAGES[kind]
    newest = begun / "checkpoints" / "step-0000006"
    damage(newest / name)
    train(CONFIG, dataset, begun)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "warning" in line and "checkpoint" in line]
    assert str(newest / name) in line and str(begun / "checkpoints" / "step-0000004") in line
    assert same(finished, begun)
    shutil.rmtree(begun / "adapter")  # the checkpoint that was damaged has been made anew
    train(CONFIG, dataset, begun)
    assert "warning" not in capsys.readouterr().err and same(finished, begun)


def test_a_checkpoint_of_another_rank_is_passed_over(
    finished: Path, begun: Path, dataset: Path, of_another_rank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(begun / CHECKPOINT)
    shutil.copytree(of_another_rank, begun / CHECKPOINT)
    train(CONFIG, dataset, begun)
    said = capsys.readouterr().err
    assert f"{begun / CHECKPOINT}" in said and "(now" in said and str(begun / "checkpoints" / "step-0000004") in said
    assert same(finished, begun)


def test_tensors_of_other_shapes_are_passed_over(
    begun: Path, of_another_rank: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(begun / CHECKPOINT)
    shutil.copytree(of_another_rank, begun / CHECKPOINT)
    like = load_file(begun / "checkpoints" / "step-0000004" / checkpoint.TENSORS)
    found = checkpoint.latest(begun / "checkpoints", like=like)
    assert found is not None and found[0] == 4
    assert "does not fit what is trained" in capsys.readouterr().err


def test_without_a_good_checkpoint_it_is_told_how_to_begin_anew(
    begun: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 6):
        half(begun / f"checkpoints/step-000000{step}/state.safetensors")
    line = told(command(dataset, begun), capsys)
    assert f'delete "{begun / "checkpoints"}" to begin anew' in line and "1 more" in line
    shutil.rmtree(begun / "checkpoints")
    assert main(command(dataset, begun)) == 0


def test_what_was_left_under_temporary_names_is_swept(begun: Path, dataset: Path) -> None:
    leftovers = [begun / name for name in (
        "checkpoints/.step-0000008.0123abcd.tmp", ".adapter.0123abcd.tmp", ".metrics.jsonl.0123abcd.tmp",
        "latents/.shard-00000.safetensors.0123abcd.tmp")]  # fmt: skip
    for path in leftovers[:2]:
        path.mkdir()
        (path / "state.safetensors").touch()
    for path in leftovers[2:]:
        path.touch()
    train(CONFIG, dataset, begun)
    assert not [path for path in begun.rglob(".*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("removed", [("latents",), ("latents", "config.json", "sources.json")], ids=str)
@pytest.mark.parametrize("is_finished", [False, True])
def test_other_data_do_not_go_on_from_these_ones(
    removed: tuple[str, ...], is_finished: bool, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run")) if is_finished else killed(finished, tmp_path)
    for name in removed:
        shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink()
    other = tmp_path / "other"
    dataset_in(other, simple_pairs(10))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert re.search(r"data.*now", told(command(other, run), capsys))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_run_that_does_not_say_of_what_proves_it_by_its_checkpoint(
    finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("config.json", "sources.json"):
        (run / name).unlink()
    assert main(command(dataset, run)) == 0 and same(finished, run)
    assert (run / "config.json").read_bytes() == (finished / "config.json").read_bytes()
    shutil.rmtree(run / "checkpoints")
    (run / "sources.json").unlink()
    assert "sources.json" in told(command(dataset, run), capsys)


@pytest.mark.parametrize("damage", [half, empty, garbled, Path.unlink], ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", ["adapter.json", "adapter.safetensors"])
def test_a_damaged_adapter_of_a_finished_run_is_written_anew_or_told(
    name: str, damage: Damage, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    damage(run / "adapter" / name)
    if name == "adapter.json" and damage is Path.unlink:
        assert str(run / "adapter") in told(command(dataset, run), capsys)  # it may be anything
    else:
        assert main(command(dataset, run)) == 0 and same(finished, run)
        assert str(run / "adapter") in capsys.readouterr().err
    shutil.rmtree(run / "adapter")
    assert main(command(dataset, run)) == 0 and same(finished, run)


JSON = ("[]", "{}", "3", "null", '"x"', "[" * 100_000, '{"step": "x"}', "[1]")


@pytest.mark.parametrize("name", ["config.json", "sources.json", "environment.json", "metrics.jsonl"])
def test_a_damaged_file_of_a_run_is_one_sentence_or_nothing_is_lost(
    name: str, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = killed(finished, tmp_path)
    whole = (run / name).read_bytes()
    damages: list[Damage] = [half, empty, garbled, Path.unlink, folder_for]
    damages += [lambda path, text=text: path.write_text(text) for text in JSON]
    for number, damage in enumerate(damages):
        damage(run / name)
        status = main(command(dataset, run))
        lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning: ")]
        if status == 0:
            assert same(finished, run), number
            shutil.rmtree(run / "adapter")
        else:
            assert status == 2 and len(lines) == 1 and str(run) in lines[0], (number, lines)
        if (run / name).is_dir():
            (run / name).rmdir()
        (run / name).write_bytes(whole)


def test_half_of_the_last_line_of_the_metrics_is_dropped(begun: Path, dataset: Path) -> None:
    path = begun / "metrics.jsonl"
    whole = path.read_text()
    path.write_text(whole + '{"step": 6, "time": 1.5, "lo')
    train(CONFIG, dataset, begun)
    assert path.read_text() == whole


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


def test_shards_that_change_while_latents_are_made_of_them_are_not_trained_on_again(
    finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = Path(shutil.copytree(finished, tmp_path / "run")), Path(shutil.copytree(dataset, tmp_path / "data"))
    for name in ("latents", "adapter"):
        shutil.rmtree(run / name)
    swapped_shards(data)
    assert "not what the manifest says" in told(command(data, run), capsys)


@pytest.fixture
def nobody() -> Iterator[Path]:
    """A folder of another user, who this process is meanwhile."""
    if os.geteuid() != 0:
        pytest.skip("only root becomes another user")
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, 65534, 65534)
        base = Path(CONFIG.base)
        for path in (base.parent, base, *base.rglob("*")):
            path.chmod(0o755)
        os.seteuid(65534)
        try:
            yield Path(place)
        finally:
            os.seteuid(0)


def copied(folder: Path, to: Path) -> Path:
    """A copy that belongs to who runs; only root may read the original."""
    user = os.geteuid()
    os.seteuid(0)
    shutil.copytree(folder, to)
    for path in (to, *to.rglob("*")):
        os.chown(path, user, user)
    os.seteuid(user)
    return to


@pytest.mark.parametrize("mode", [0, 0o500], ids=oct)
@pytest.mark.parametrize("name", ["", "config.json", "sources.json", "metrics.jsonl", "checkpoints", "adapter"])
def test_what_may_not_be_read_or_written_of_a_run_is_one_sentence(
    name: str, mode: int, finished: Path, dataset: Path, nobody: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = copied(finished, nobody / "run"), copied(dataset, nobody / "data")
    shutil.rmtree(run / "adapter" if name != "adapter" else run / "checkpoints")
    if name == "checkpoints":
        shutil.rmtree(run / name / "step-0000006")
    (run / name).chmod(mode)
    words = command(data, run)
    if mode and name in ("config.json", "sources.json", "metrics.jsonl", "adapter"):
        assert main(words) == 0, "what is only read may be read-only"
    else:
        assert str(run) in told(words, capsys)
    (run / name).chmod(0o700)


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
