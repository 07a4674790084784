"""Nothing wrong is trained on: what is damaged, of another run or has diverged is told in a sentence, and what is good
goes on with the same bits."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from damage_parts import (
    CHECKPOINT,
    CONFIG,
    Damage,
    as_nobody,
    command,
    copied,
    empty,
    folder_for,
    garbled,
    half,
    one_bit,
    same,
    told,
)  # fmt: skip
from safetensors.torch import load_file
from training_parts import dataset_in, simple_pairs

from dsd.cli.main import main
from dsd.train import checkpoint
from dsd.train.trainer import train


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "dataset"
    dataset_in(folder)
    return folder


@pytest.fixture
def nobody() -> Iterator[Path]:
    with as_nobody() as place:
        yield place


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


def test_shards_that_change_while_latents_are_made_of_them_are_not_trained_on_again(
    finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = Path(shutil.copytree(finished, tmp_path / "run")), Path(shutil.copytree(dataset, tmp_path / "data"))
    for name in ("latents", "adapter"):
        shutil.rmtree(run / name)
    first, second = (data / "pairs" / f"0000{number}.parquet" for number in (0, 1))
    first.write_bytes(second.read_bytes())
    assert "not what the manifest says" in told(command(data, run), capsys)


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
