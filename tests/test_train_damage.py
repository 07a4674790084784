"""Nothing wrong is trained on: what is damaged, of another run or has diverged is told in a sentence, and what is good
goes on with the same bits."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
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
