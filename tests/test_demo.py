"""Claims about the demo, with tiny random models and a chat server on loopback."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import curation_parts
import pytest
import tiny
from chat_server import chat_server
from evaluation_parts import QUALITIES, agreement_encoder, identity_encoder
from training_parts import small_config

from dsd.errors import UserError
from dsd.evaluate.config import EvaluateConfig
from dsd.sampling import Sampling
from dsd_world import demo_stages
from dsd_world.demo import Stages, demo
from dsd_world.demo_config import DemoConfig

PANEL = 32


@pytest.fixture(scope="module")
def config() -> Iterator[DemoConfig]:
    with chat_server() as server:
        yield DemoConfig(
            curate=curation_parts.config("", f"openai:test@{server.url}", units=2),
            train=small_config(
                base=tiny.schnell(), rank=4, steps=2, batch_size=2, warmup=1, held_out=1, sample_every=2,
                sampling=Sampling(steps=1), checkpoint_every=1, max_sequence_length=tiny.TEXT_TOKENS,
            ),
            shipped_student=None,
            subjects=3,
            sampling=Sampling(steps=1),
            evaluate=EvaluateConfig(
                identity=identity_encoder(), agreement=agreement_encoder(), apart=False,
                likeness=(f"dino_i={identity_encoder()}",),
            ),
        )  # fmt: skip


@pytest.fixture(scope="module")
def finished(config: DemoConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    demo(config, out)
    return out


def test_the_loop_ends_with_a_report_and_a_summary(finished: Path):
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary) == ["funnel", "train", "methods", "seconds"]
    assert list(summary["methods"]) == ["student", "teacher", "copy", "truth"]
    for scores in summary["methods"].values():
        assert set(scores) >= {*QUALITIES, "dino_i", "seconds_per_image", "prepare_seconds"}
        assert all(set(score) == {"mean", "low", "high"} for score in scores.values())
    assert list(summary["seconds"]) == ["captions", "curate", "train", "generate", "evaluate", "report"]
    assert summary["funnel"]["candidates"] == 6 * summary["funnel"]["sheets"] > 0
    assert summary["train"]["steps"] == 2
    page = (finished / "report" / "index.html").read_text()
    for heading in ("What came out", "The table", "Funnel", "Kept and rejected", "Training", "Time"):
        assert f"<h2>{heading}</h2>" in page


def test_a_finished_demo_does_nothing_twice_and_keeps_its_seconds(
    config: DemoConfig, finished: Path, monkeypatch: pytest.MonkeyPatch
):
    before = (finished / "summary.json").read_bytes()
    for stage in ("write_captions", "curate_pairs", "train_student", "draw_pictures", "measure", "write_report"):
        monkeypatch.setattr(demo_stages, stage, lambda *_: pytest.fail("a finished stage ran again"))
    demo(config, finished)
    assert (finished / "summary.json").read_bytes() == before


def test_an_interrupted_demo_goes_on_with_the_stage_that_was_interrupted(
    config: DemoConfig, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo_stages, "draw_pictures", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo(config, tmp_path)
    weights = tmp_path / "train" / "adapter" / "adapter.safetensors"
    trained = weights.stat().st_mtime_ns
    demo(config, tmp_path)
    assert weights.stat().st_mtime_ns == trained
    one, other = (json.loads((out / "summary.json").read_text()) for out in (tmp_path, finished))
    assert one["funnel"] == other["funnel"] and one["train"] == other["train"]
    for method, scores in one["methods"].items():
        for metric in QUALITIES:
            assert scores[metric] == other["methods"][method][metric]


def test_other_settings_in_the_same_folder_are_refused(config: DemoConfig, finished: Path):
    other = dataclasses.replace(config, sampling=Sampling(steps=2))
    longer = dataclasses.replace(config, train=dataclasses.replace(config.train, steps=3))
    for changed, words in (
        (other, "holds a demo with sampling.steps = 1"),
        (longer, "holds a demo with train.steps = 2"),
    ):
        with pytest.raises(UserError, match=words):
            demo(changed, finished)


def test_a_missing_shipped_student_is_left_out_with_a_warning(
    config: DemoConfig, finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dsd.models.folder_of", lambda point: finished / "nowhere")
    rows = demo_stages.rows(dataclasses.replace(config, shipped_student="embedded:tiny-student"), finished)
    assert [row.name for row in rows] == ["student", "teacher", "copy", "truth"]
    assert "without the shipped student" in " ".join(capsys.readouterr().err.split())


def test_an_interrupted_stage_keeps_the_seconds_it_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clock = iter([0.0, 5.0, 100.0, 107.0])
    monkeypatch.setattr("dsd_world.demo.time.monotonic", lambda: next(clock))

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path / "stages").run("train", interrupted)
    stages = Stages(tmp_path / "stages")
    stages.run("train", lambda: None)
    assert stages.seconds == {"train": 12.0}
    stages.run("train", interrupted)  # it is finished, so this is not done
    assert stages.seconds == {"train": 12.0}
