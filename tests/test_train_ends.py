"""How a run ends before its time: a full disk, SIGTERM, weights that diverge. What is good is kept, and goes on."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from damage_parts import CONFIG, same
from safetensors.torch import load_file
from training_parts import simple_pairs, small_config, task_in

import dsd
from dsd.backbones.adapter import load_metadata, save_adapter, save_full
from dsd.data.records import Example
from dsd.data.sources import Source
from dsd.errors import UserError
from dsd.train import checkpoint, loop
from dsd.train.metrics import GRADIENT_NORM, Metrics
from dsd.train.stopping import Terminated, Termination
from dsd.train.trainer import train


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    train(CONFIG, simple_pairs(), out)
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file may grow beyond a size, as on a disk that is full there."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_run(run: Path) -> None:
    shutil.rmtree(run)


def no_samples(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    shutil.rmtree(run / "checkpoints" / "step-0000006")
    shutil.rmtree(run / "samples")


def long_metrics(run: Path) -> None:
    no_samples(run)
    line = json.dumps({"step": 4, "loss": 1.0}) + "\n"
    (run / "metrics.jsonl").write_text(line * (19_990 // len(line)))


def no_adapter(run: Path) -> None:
    shutil.rmtree(run / "adapter")


FULL = {
    "latents": (no_run, 15_000, "latents/shard-00000.safetensors"),
    "checkpoint": (no_run, 90_000, "checkpoints/step-0000002"),
    "samples": (no_samples, 5_000, "samples/step-0000006.png"),
    "metrics": (long_metrics, 20_000, "metrics.jsonl"),
    "adapter": (no_adapter, 80_000, "adapter"),
}


@pytest.mark.parametrize("where", FULL)
def test_a_full_disk_is_one_sentence_and_the_run_goes_on_once_there_is_room(
    where: str, finished: Path, tmp_path: Path
) -> None:
    prepare, size, name = FULL[where]
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    prepare(run)
    before = {name: content for name, content in files_of(run).items() if name != "metrics.jsonl"}
    with files_up_to(size), pytest.raises(UserError, match=r"cannot write .*File too large") as told:
        train(CONFIG, simple_pairs(), run)
    assert f'"{run / name}"' in str(told.value)
    assert not list(tmp_path.rglob("*.tmp"))
    assert before.items() <= files_of(run).items()
    train(CONFIG, simple_pairs(), run)
    assert same(finished, run)
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6


@pytest.mark.parametrize("changes", [{"optimizer": "adamw"}, {"optimizer": "muon"}, {"full": True}], ids=str)
def test_a_learning_rate_of_1e9_ends_as_a_sentence_and_nothing_of_it_is_kept(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config(learning_rate=1e9, muon_learning_rate=1e9, steps=6, checkpoint_every=2, **changes)
    with pytest.raises(UserError, match=r"training has diverged: .* train at a lower learning rate"):
        train(config, simple_pairs(), tmp_path)
    assert not (tmp_path / "adapter").exists()
    for _, folder in checkpoint.step_folders(tmp_path / "checkpoints"):
        assert all(tensor.isfinite().all() for tensor in load_file(folder / checkpoint.TENSORS).values())
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if (tmp_path / "metrics.jsonl").exists() else []:
        assert "NaN" not in line and "Infinity" not in line


@pytest.mark.parametrize(
    ("optimizer", "rate", "held_out"),
    [("adamw", 1e9, 0), ("adamw", 1e3, 1), ("muon", 1e9, 1), ("adamw8bit", 1e30, 1), ("muon", 1e3, 0)],
)
def test_a_last_step_that_diverges_is_not_kept_either(
    optimizer: str, rate: float, held_out: int, tmp_path: Path
) -> None:
    rates = {"learning_rate": rate, "muon_learning_rate": rate, "optimizer": optimizer, "held_out": held_out}
    with pytest.raises(UserError, match="training has diverged"):
        train(small_config(steps=1, checkpoint_every=2, **rates), simple_pairs(4), tmp_path)
    assert not (tmp_path / "adapter").exists() and not list(tmp_path.glob("checkpoints/step-*"))


def test_weights_of_no_use_are_not_kept_though_the_loss_is_small(tmp_path: Path) -> None:
    config = small_config(steps=1, learning_rate=1e18, optimizer="adamw", lora_targets=("to_v",), held_out=0)
    with pytest.raises(UserError, match=r"training has diverged: a weight is .*e\+1[78] after step 1"):
        train(config, simple_pairs(4), tmp_path)
    assert not (tmp_path / "adapter").exists()


def test_a_checkpoint_that_is_kept_is_a_state_that_was_passed_once(tmp_path: Path) -> None:
    config = small_config(learning_rate=10, optimizer="adamw", steps=6, checkpoint_every=1, sample_every=9)
    with pytest.raises(UserError, match="training has diverged"):
        train(config, simple_pairs(), tmp_path)
    kept = checkpoint.step_folders(tmp_path / "checkpoints")
    assert all(
        tensor.abs().max() < 100 for _, folder in kept for tensor in load_file(folder / checkpoint.TENSORS).values()
    )


def test_the_last_good_checkpoint_is_kept_where_training_diverges_later(tmp_path: Path) -> None:
    task = task_in(tmp_path, replace(CONFIG, optimizer="adamw"))
    settings: Any = {"folder": tmp_path, "checkpoint_every": 2, "evaluate_every": 9, "log_every": 1, "description": "x"}
    loop.run(task, steps=4, **settings)
    good = files_of(tmp_path / "checkpoints")
    task.optimizer.adamw_lr = 1e30
    with pytest.raises(UserError, match="the last good checkpoint, of step 4, is kept in"):
        loop.run(task, steps=60, **settings)
    assert files_of(tmp_path / "checkpoints") == good


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_no_finite_number_is_never_written(value: float, tmp_path: Path, finished: Path) -> None:
    with pytest.raises(UserError, match=r"a\.b holds values that are no finite numbers"):
        checkpoint.save(tmp_path, 3, {"a": torch.ones(3), "a.b": torch.tensor([1.0, value])})
    task = task_in(tmp_path / "task", CONFIG)
    next(iter(task.adapter.parameters.values())).data.view(-1)[0] = value
    metadata = load_metadata(finished / "adapter")
    with pytest.raises(UserError, match="no finite numbers"):
        save_adapter(tmp_path / "adapter", task.adapter.updates(), metadata)
    with pytest.raises(UserError, match="no finite numbers"):
        save_full(tmp_path / "adapter", task.backbone.transformer, metadata)
    assert {path.name for path in tmp_path.iterdir()} == {"task"}


def test_exploding_gradients_end_a_run_but_one_long_one_does_not(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        metrics.write(step, {GRADIENT_NORM: 0.5})
    assert metrics.means({GRADIENT_NORM: [0.4, 9e4, 0.6]}, 6)[GRADIENT_NORM] > 1e4
    with pytest.raises(UserError, match=r"norm of the gradients is 2e\+03 at step 6, where 0\.5 is usual"):
        metrics.means({GRADIENT_NORM: [0.4, 2e3, 3e3]}, 6)
    with pytest.raises(UserError, match=r"loss is no finite number at step 6"):
        metrics.means({"loss": [1.0, float("nan")]}, 6)
    with pytest.raises(UserError, match="norm of the gradients is 6e"):
        metrics.means({GRADIENT_NORM: [18.9, 1.2e10]}, 6)  # of two, not the lower one


def test_figures_of_a_state_that_make_no_sense_end_a_run(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.means({"loss": [0.4, 0.6]}, 2)
    metrics.require_sense({"held_out_loss": 300.0, "held_out_identity": -2.0}, 2)
    for figures in ({"held_out_loss": 500.0}, {"held_out_identity": float("nan")}, {"loss": float("-inf")}):
        with pytest.raises(UserError, match=f"training has diverged: {next(iter(figures))} is .* after step 2"):
            metrics.require_sense(figures, 2)


class Slow:
    """A task whose steps and figures take a while."""

    def __init__(self) -> None:
        self.value = torch.zeros(1)
        self.evaluated: list[int] = []
        self.wait_in: str | None = None

    def train_step(self, step: int) -> dict[str, float | torch.Tensor]:
        self.value += 1
        self._wait("step")
        return {"loss": 1.0}

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"value": self.value}

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        self.value.copy_(tensors["value"])

    def evaluate(self, step: int) -> dict[str, float]:
        self._wait("evaluate")
        self.evaluated.append(step)
        return {"figure": float(self.value)}

    def _wait(self, where: str) -> None:
        if self.wait_in == where:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize("where", ["step", "evaluate"])
def test_sigterm_keeps_what_is_done_and_ends_with_status_0(
    where: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings: Any = {"folder": tmp_path, "steps": 9, "checkpoint_every": 5, "evaluate_every": 3, "description": "x"}
    task = Slow()
    task.wait_in = where
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended:
        loop.run(task, **settings)
    assert ended.value.code == 0 and signal.getsignal(signal.SIGTERM) is before
    assert capsys.readouterr().err.count("stopped by SIGTERM") == 1
    step = {"step": 1, "evaluate": 3}[where]
    assert [number for number, _ in checkpoint.step_folders(tmp_path / "checkpoints")] == [step]
    again = Slow()
    loop.run(again, **settings)
    assert again.value == 9 and again.evaluated == [3, 6, 9]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["figure"]) for line in lines] == [(3, 3.0), (6, 6.0), (9, 9.0)]


def test_sigterm_outside_of_the_main_thread_and_of_others_is_left_alone() -> None:
    found = []
    thread = threading.Thread(target=lambda: found.append(Termination().__enter__().asked))
    thread.start()
    thread.join()
    assert found == [False]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with Termination(at_once=True):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Terminated), Termination(at_once=True):
        signal.raise_signal(signal.SIGTERM)


def test_a_run_that_got_sigterm_ends_with_status_0_and_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    config = replace(CONFIG, steps=45, checkpoint_every=44, sample_every=900)
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from training_parts import *\n"
        "config = small_config(base=sys.argv[1], steps=45, checkpoint_every=44, sample_every=900)\n"
        "trainer.train(config, simple_pairs(), Path(sys.argv[2]))\n"
    )
    paths = [str(Path(__file__).parent), str(Path(dsd.__file__).parents[1])]
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, str(script), config.base, str(run)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.005)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0 and "stopped by SIGTERM" in said, said
    assert not (run / "adapter").exists() and not (run / ".lock").exists()
    ((step, _),) = checkpoint.step_folders(run / "checkpoints")
    assert 20 <= step < 44
    for folder in (run, tmp_path / "undisturbed"):
        train(config, simple_pairs(), folder)
    assert same(run, tmp_path / "undisturbed")


def test_sigterm_before_the_first_step_leaves_a_run_that_can_be_started_again(tmp_path: Path) -> None:
    def pairs() -> Iterator[Example]:
        yield from simple_pairs()[:5]
        signal.raise_signal(signal.SIGTERM)

    source = Source(examples=pairs, fingerprint="x")
    with pytest.raises(SystemExit) as ended:
        train(CONFIG, source, tmp_path / "run")
    assert ended.value.code == 0 and not (tmp_path / "run").exists()


def test_files_of_a_run_follow_the_umask(tmp_path: Path) -> None:
    for umask, mode in ((0o022, 0o644), (0o007, 0o660)):
        before = os.umask(umask)
        try:
            train(small_config(steps=1, sample_every=1), simple_pairs(), tmp_path / oct(umask))
        finally:
            os.umask(before)
        modes = {
            path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / oct(umask)).rglob("*") if path.is_file()
        }
        assert set(modes.values()) == {mode}, modes
