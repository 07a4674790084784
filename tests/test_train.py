"""Whole runs: what they write, how they resume, and what they refuse."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from PIL import Image
from safetensors.torch import load_file
from training_parts import dataset_in, simple_pairs, small_config, task_in

from dsd.backbones.adapter import load_metadata
from dsd.config import from_json
from dsd.errors import UserError
from dsd.recipes.published import flux_dev
from dsd.sampling import Sampling
from dsd.train import loop
from dsd.train.config import TrainConfig
from dsd.train.trainer import train

ONES = [{"optimizer": "muon"}, {"optimizer": "adamw", "lora_targets": "attention"}, {"full": True}]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run")
    train(small_config(), simple_pairs(), out)
    return out


def test_a_run_folder_tells_the_whole_run(finished: Path) -> None:
    assert from_json(TrainConfig, (finished / "config.json").read_text()) == small_config()
    environment = json.loads((finished / "environment.json").read_text())
    assert len(environment) == 1 and environment[0]["packages"]["torch"] == torch.__version__
    line = json.loads((finished / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["step"] == 4 and {"loss", "loss_target", "held_out_loss", "held_out_loss_target"} <= line.keys()
    assert (finished / "checkpoints" / "step-0000004").is_dir()
    with Image.open(finished / "samples" / "step-0000004.png") as sheet:
        assert sheet.width > 3 * 32


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert train(small_config(), simple_pairs(), finished) == finished / "adapter"
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_changed_config_is_refused_by_name(finished: Path) -> None:
    with pytest.raises(UserError, match=r"learning_rate = 0\.001 \(now 0\.002\)"):
        train(small_config(learning_rate=2e-3), simple_pairs(), finished)


def test_changed_data_is_refused(tmp_path: Path) -> None:
    config = small_config(steps=1, sample_every=9, checkpoint_every=9)
    for latents in (None, tmp_path / "shared"):
        run = tmp_path / f"run-{latents is None}"
        train(config, simple_pairs(10), run, latents=latents)
        for _ in ("finished", "in the middle"):
            with pytest.raises(
                UserError, match=r"holds a run with revision \w+ of data, but it now is \w+; bring the old"
            ):
                train(config, simple_pairs(12), run, latents=latents and tmp_path / "others")
            shutil.rmtree(run / "adapter", ignore_errors=True)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"base": "nowhere/to-be-found"}, "nowhere/to-be-found"),
        ({"lora_targets": ("no_such_layer",)}, "no_such_layer"),
        ({"frame_size": (31, 32)}, "31"),
    ],
    ids=str,
)
def test_a_start_that_fails_on_what_it_is_told_leaves_the_folder_free(
    wrong: dict[str, Any], words: str, tmp_path: Path
) -> None:
    config = small_config(steps=1, sample_every=9, checkpoint_every=9)
    with pytest.raises(UserError, match=words):
        train(replace(config, **wrong), simple_pairs(10), tmp_path)
    assert train(config, simple_pairs(12), tmp_path).is_dir()


def test_what_lies_in_a_folder_that_was_never_claimed_stays(tmp_path: Path) -> None:
    config = small_config(steps=1, sample_every=9, checkpoint_every=9)
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / "theirs.txt").touch()
    with pytest.raises(UserError, match="nowhere"):
        train(replace(config, lora_targets=("nowhere",)), simple_pairs(10), tmp_path)
    assert (tmp_path / "latents" / "theirs.txt").exists()
    assert train(config, simple_pairs(12), tmp_path).is_dir(), "latents of a start that failed are made anew"
    assert (tmp_path / "latents" / "theirs.txt").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_size": (0, 0)}, {"frame_size": (32, -1)}, {"seed": 1 << 63}, {"seed": -1}, {"learning_rate": math.inf},
        {"learning_rate": math.nan}, {"weight_decay": -1.0}, {"guidance": math.nan}, {"held_out": -1},
        {"reference_weight": math.inf}, {"learning_rate": 1e38}, {"muon_learning_rate": 1e38}, {"weight_decay": 1e300},
        {"ema_decay": math.nan}, {"decay_from": 1.5}, {"steps": 10**400}, {"warmup": 10**400}, {"held_out": 10**30},
        {"sample_every": 10**400}, {"checkpoint_every": 10**400}, {"sampled": 10**30}, {"batch_size": 10**15},
        {"rank": 10**20}, {"gradient_accumulation": 10**30}, {"max_sequence_length": 513}, {"steps": True},
        {"frame_size": (64_000, 64_000)}, {"frame_size": (10**400, 8)},
    ],
    ids=str,
)  # fmt: skip
def test_settings_have_ranges(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=rf"train\.{name} is .{{1,170}}, but (must be|a picture has at most 40)"):
        small_config(**wrong)


def test_a_bucket_is_a_picture_s_size() -> None:
    with pytest.raises(
        UserError, match=r"train\.buckets is \(100000000, 100000000\), but a picture has at most 40 mill"
    ):
        small_config(frame_size=None, buckets=((32, 32), (100_000_000, 100_000_000)))


@pytest.mark.parametrize("flavour", ["canvas", "cached"])
def test_a_lora_of_no_layers_is_refused(flavour: Any) -> None:
    with pytest.raises(UserError, match=r"train\.lora_targets is empty"):
        small_config(flavour=flavour, lora_targets=())
    assert small_config(flavour=flavour, lora_targets=(), full=True).full


def test_an_average_that_never_moves_is_refused() -> None:
    with pytest.raises(UserError, match=r"train\.ema_decay is 1"):
        small_config(ema_decay=1.0)


def test_the_largest_seed_has_steps_of_its_own() -> None:
    first, second = (loop.step_generator((1 << 63) - 1, step).initial_seed() for step in (0, 1))
    assert first != second


def test_how_a_run_is_worked_through_may_change_and_it_may_be_prolonged(tmp_path: Path) -> None:
    config = small_config(steps=2, checkpoint_every=1)
    train(config, simple_pairs(), tmp_path)
    first = load_file(tmp_path / "adapter" / "adapter.safetensors")
    longer = replace(config, steps=4, checkpoint_every=2, gradient_accumulation=2, sample_every=3)
    adapter = train(longer, simple_pairs(), tmp_path)
    lines = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == 4 and lines == sorted(set(lines))
    assert load_metadata(adapter).steps == 4
    after = load_file(adapter / "adapter.safetensors")
    assert any(not torch.equal(value, after[name]) for name, value in first.items())
    with pytest.raises(UserError, match=r"has done 4 steps, but train.steps is 2; give 4 or more"):
        train(config, simple_pairs(), tmp_path)


def test_a_dataset_folder_trains_like_its_pairs(tmp_path: Path) -> None:
    pairs = dataset_in(tmp_path / "dataset")
    config = small_config(steps=2)
    folders = [train(config, data, tmp_path / name) for name, data in (("a", tmp_path / "dataset"), ("b", pairs))]
    first, second = (load_file(folder / "adapter.safetensors") for folder in folders)
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_a_finished_run_of_a_base_that_has_changed_since_is_not_taken_for_the_new_one_s(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny.schnell(), base)
    config = small_config(base=str(base), steps=1, sample_every=9, checkpoint_every=9)
    finished = train(config, simple_pairs(), tmp_path / "run")
    assert train(config, simple_pairs(), tmp_path / "run") == finished
    (base / "scheduler" / "scheduler_config.json").write_text(
        (Path(tiny.dev()) / "scheduler" / "scheduler_config.json").read_text()
    )
    with pytest.raises(UserError, match="holds an adapter of other weights"):
        train(config, simple_pairs(), tmp_path / "run")
    assert (finished / "adapter.safetensors").is_file()


def test_a_folder_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read as a dataset"):
        train(small_config(), tmp_path, tmp_path / "run")


def test_no_held_out_individual_is_trained_on(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config(held_out=2))
    trained, held = ({task.cache.grids[row] for row in rows} for rows in (task.rows.training, task.rows.held_out))
    assert len(held) == 2 and not trained & held
    assert [task.cache.grids[row] for row in task.rows.shown] == sorted(held)


def test_training_learns(tmp_path: Path) -> None:
    config = small_config(steps=60, rank=32, sample_every=20, checkpoint_every=60, ema_decay=0.9, batch_size=8)
    train(config, simple_pairs(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss_target"] < 0.8 * lines[0]["loss_target"]
    assert lines[-1]["held_out_loss_target"] < lines[0]["held_out_loss_target"]


@pytest.mark.parametrize("changes", ONES, ids=str)
def test_a_resumed_run_ends_with_the_same_bits(changes: dict, tmp_path: Path) -> None:
    config = small_config(steps=6, text_dropout=0.4, image_dropout=0.4, **changes)

    def go(folder: Path, steps: int) -> dict[str, torch.Tensor]:
        task = task_in(folder, config)
        loop.run(
            task, folder=folder, steps=steps, checkpoint_every=2, evaluate_every=3, log_every=2, description="test"
        )
        return task.tensors()

    undisturbed = go(tmp_path / "undisturbed", 6)
    go(tmp_path / "stopped", 3)
    resumed = go(tmp_path / "stopped", 6)
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], value) for name, value in undisturbed.items())
    lines = (tmp_path / "stopped" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 3, 4, 6]


def test_denormals_are_flushed_inside_and_kept_outside() -> None:
    smallest = float.__mul__(sys.float_info.min, 1.0)
    with loop.flushed_denormals():
        with loop.flushed_denormals():
            assert smallest / 2 == 0
        assert smallest / 2 == 0
    assert smallest / 2 > 0


def test_the_flux_dev_recipe_trains_a_tiny_flux_dev(tmp_path: Path) -> None:
    config = replace(
        flux_dev().train, base=tiny.dev(), rank=8, steps=3, batch_size=8, gradient_accumulation=4, warmup=1, held_out=1,
        frame_size=(32, 32), max_sequence_length=tiny.TEXT_TOKENS, sample_every=3, sampling=Sampling(steps=2),
        checkpoint_every=2, identity=None, agreement=None,
    )  # fmt: skip
    assert (config.lora_targets, config.optimizer, config.mixed_precision) == ("attention", "adamw", "bf16")
    adapter = train(config, simple_pairs(), tmp_path)
    weights = load_file(adapter / "adapter.safetensors")
    assert weights["transformer.transformer_blocks.0.attn.to_q.lora_A.weight"].shape == (8, 32)
    assert weights["transformer.transformer_blocks.0.attn.to_q.lora_B.weight"].any()
    assert weights["transformer.x_embedder.lora_B.weight"].any()
    assert json.loads((adapter / "adapter.json").read_text())["guidance"] == 3.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text_dropout": 1.5}, "text_dropout is 1.5"),
        ({"steps": 0}, "steps is 0"),
        ({"batch_size": 10, "gradient_accumulation": 4}, "batch_size 10 does not divide"),
    ],
)
def test_impossible_settings_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        small_config(**changes)
