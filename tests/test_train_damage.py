"""Nothing wrong is trained on: what is damaged, of another run or has diverged is told in a sentence, and what is good
goes on with the same bits."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from damage_parts import (
    CHECKPOINT,
    CONFIG,
    Damage,
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

from dsd.backbones.adapter import load_adapter
from dsd.cli.main import main
from dsd.errors import UserError
from dsd.train import checkpoint
from dsd.train.trainer import train


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


def bit_of(name: str) -> Damage:
    return lambda adapter: one_bit(adapter / name)


def said(**changes: object) -> Damage:
    """An ``adapter.json`` that says something else."""

    def damage(adapter: Path) -> None:
        content = json.loads((adapter / "adapter.json").read_text())
        (adapter / "adapter.json").write_text(json.dumps(content | changes))

    return damage


def without_steps(adapter: Path) -> None:
    content = json.loads((adapter / "adapter.json").read_text())
    del content["steps"]
    (adapter / "adapter.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    "damage",
    [bit_of("adapter.safetensors"), said(rank=77), said(rank=10**30), said(run="0" * 16), said(max_sequence_length=9),
     said(steps=8), said(guidance=9.0), said(encodes="canvas"), said(base_revision="abc"), said(sha256=""),
     without_steps, lambda adapter: (adapter / "transformer").mkdir()],
    ids=["bit", "rank", "rank-huge", "run", "length", "more-steps", "guidance", "encodes", "revision", "unsealed",
         "steps", "transformer"],
)  # fmt: skip
def test_an_adapter_that_is_not_this_run_s_is_never_handed_out(
    damage: Damage, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    damage(run / "adapter")
    assert main(command(dataset, run)) == 0 and same(finished, run)
    damage(run / "adapter")
    shutil.rmtree(run / "checkpoints")
    assert str(run / "adapter") in told(command(dataset, run), capsys)


def test_the_adapter_of_another_run_is_not_handed_out(finished: Path, dataset: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    train(replace(CONFIG, seed=CONFIG.seed + 1), dataset, tmp_path / "other")
    shutil.rmtree(run / "adapter")
    shutil.copytree(tmp_path / "other" / "adapter", run / "adapter")
    assert main(command(dataset, run)) == 0 and same(finished, run)


@pytest.mark.parametrize("damage", [half, Path.unlink, one_bit], ids=lambda damage: damage.__name__)
def test_a_damaged_transformer_of_a_finished_run_is_written_anew(
    damage: Damage, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(CONFIG, full=True, steps=2)
    (file,) = (train(config, dataset, tmp_path / "run") / "transformer").glob("*.safetensors")
    before = file.read_bytes()
    damage(file)
    train(config, dataset, tmp_path / "run")
    assert file.read_bytes() == before and "written anew" in capsys.readouterr().err


def test_a_finished_run_takes_another_way_of_drawing_and_keeps_its_weights(
    finished: Path, dataset: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    before = (run / "adapter" / "adapter.safetensors").read_bytes()
    train(replace(CONFIG, sampling=replace(CONFIG.sampling, steps=7)), dataset, run)
    assert load_adapter(run / "adapter")[1].sampling.steps == 7
    assert json.loads((run / "config.json").read_text())["sampling"]["steps"] == 7
    train(replace(CONFIG, sampling=replace(CONFIG.sampling, steps=7)), dataset, run)
    assert (run / "adapter" / "adapter.safetensors").read_bytes() == before


@pytest.mark.parametrize("name", ["run", "run/adapter"])
def test_links_that_lead_nowhere_are_told_before_the_work(
    name: str, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if name != "run":
        killed(finished, tmp_path)
    path = tmp_path / name
    path.symlink_to(path)
    assert str(path) in told(command(dataset, tmp_path / "run"), capsys)


def test_more_steps_without_a_checkpoint_do_not_begin_anew_in_silence(
    finished: Path, dataset: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="holds an adapter of 6 steps, but no checkpoint to go on from to 8"):
        train(replace(CONFIG, steps=8), dataset, run)
    assert (run / "adapter" / "adapter.safetensors").exists()


def test_leftovers_of_a_kill_at_the_very_end_are_swept(finished: Path, dataset: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in (".adapter.0123abcd.tmp", "checkpoints/.step-0000008.0123abcd.tmp"):
        (run / name).mkdir()
    (run / ".lock").touch()
    train(CONFIG, dataset, run)
    assert not [path for path in run.rglob(".*") if path.name.endswith((".tmp", ".lock"))]


def test_of_links_to_checkpoints_the_links_alone_are_removed(finished: Path, dataset: Path, tmp_path: Path) -> None:
    run = killed(finished, tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.move(run / "checkpoints", elsewhere)
    (run / "checkpoints").mkdir()
    for _, folder in checkpoint.step_folders(elsewhere):
        (run / "checkpoints" / folder.name).symlink_to(folder)
    (tmp_path / "empty").mkdir()
    (run / "checkpoints" / "step-0000008").symlink_to(tmp_path / "empty")
    train(replace(CONFIG, steps=10), dataset, run)
    assert len(checkpoint.step_folders(elsewhere)) == 2 and (tmp_path / "empty").is_dir()


@pytest.mark.parametrize("name", ["adapter", "samples"])
def test_what_is_in_the_way_is_told_before_the_work(
    name: str, finished: Path, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = killed(finished, tmp_path)
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).touch()
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=re.escape(str(run / name))):
        train(replace(CONFIG, steps=9), dataset, run)
    assert "anew" not in capsys.readouterr().err
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("figure", ["NaN", "Infinity", "9" * 400])
def test_figures_that_are_no_finite_numbers_are_damage(
    figure: str, begun: Path, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = begun / "metrics.jsonl"
    path.write_text('{"step": 1, "gradient_norm": ' + figure + "}\n" + path.read_text())
    assert "damaged in line 1" in told(command(dataset, begun), capsys)


def test_metrics_that_are_a_link_to_nothing_are_one_sentence(begun: Path, dataset: Path) -> None:
    (begun / "metrics.jsonl").unlink()
    (begun / "metrics.jsonl").symlink_to(begun / "gone" / "x")
    with pytest.raises(UserError, match=r"metrics\.jsonl\" is a link to a file that is not there"):
        train(replace(CONFIG, steps=8), dataset, begun)


def test_steps_of_drawing_that_shape_the_training_are_those_it_began_with(dataset: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, base=tiny.flux2(), checkpoint_every=2, steps=4)
    train(config, dataset, tmp_path)
    with pytest.raises(UserError, match=r"train\.sampling\.steps = 2 \(now 7\)"):
        train(replace(config, steps=6, sampling=replace(CONFIG.sampling, steps=7)), dataset, tmp_path)


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
