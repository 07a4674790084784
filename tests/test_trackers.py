"""Claims about what watches a run: TensorBoard shows each step once, whatever stopped the run; speed is told."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_parts import simple_pairs, small_config

from dsd.errors import UserError
from dsd.train.config import TrainConfig
from dsd.train.meter import Meter
from dsd.train.trackers import Trackers
from dsd.train.trainer import train


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    return replace(small_config(), steps=4, checkpoint_every=2, sample_every=2)


def shown(run: Path) -> EventAccumulator:
    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def steps_of(events: Sequence[object]) -> list[int]:
    return [event.step for event in events]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_run_shows_its_figures_and_sheets_and_a_second_start_none_twice(config: TrainConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(replace(config, steps=2), simple_pairs(), out)
    time.sleep(1)  # TensorBoard orders files by their second, and then by a number as text
    train(config, simple_pairs(), out)
    found = shown(out)
    assert steps_of(found.Scalars("held out/loss")) == [2, 4] == steps_of(found.Images("samples"))
    assert steps_of(found.Scalars("training/loss")) == [2, 4]
    assert all(event.value > 0 for event in found.Scalars("speed/ms_a_sample"))
    assert "rank" in str(found.Tensors("config/text_summary")[0].tensor_proto)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] == pytest.approx(found.Scalars("training/loss")[-1].value, abs=1e-5)
    assert not any(name.startswith("speed") for name in lines[-1]), "two runs of one config write the same lines"


def test_a_run_without_trackers_shows_nothing(config: TrainConfig, tmp_path: Path) -> None:
    train(replace(config, steps=2, trackers=()), simple_pairs(), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()


def test_a_tracker_on_a_full_disk_is_given_up_in_a_sentence_and_the_run_goes_on(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", full)
    train(config, simple_pairs(), tmp_path / "run")
    said = capfd.readouterr().err
    assert said.count("tensorboard shows no more of this run") == 1 and "Traceback" not in said
    assert (tmp_path / "run" / "adapter" / "adapter.json").exists()


def test_a_tracker_that_is_not_installed_is_one_sentence(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="names wandb, which is not installed; `pip install wandb`, or leave it out"):
        Trackers(("tensorboard", "wandb"), tmp_path / "run", config, 0)
    assert not (tmp_path / "run").exists()


def test_speed_is_told_on_one_line() -> None:
    figures = {"loss": 0.31, "speed_ms_a_sample": 213.4, "speed_tflops": 418.0, "speed_share_of_peak": 0.42}
    assert Meter.words(figures) == "loss 0.3100, 213 ms a sample, 418 TFLOP/s, 42% of the peak"
