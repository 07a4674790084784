"""Runs in processes of their own: killed and resumed (see benchmarks/kill_training.py), launched, and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pytest
import tiny
from training_parts import dataset_in, small_config

import dsd
from dsd.train import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_training import Settings, differences, run_here, run_killed


def changed_by_a_kill(settings: Settings, folder: Path) -> list[str]:
    """What differs of a run that was killed and started again from one that was not."""
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    run_here(settings, undisturbed)
    assert run_killed(settings, killed, 0.02, wait_for=killed / "checkpoints" / "step-0000005")
    assert not (killed / "adapter").exists()
    run_here(settings, killed)
    return differences(undisturbed, killed)


def test_kill_9_and_resume_changes_no_bit(tmp_path: Path) -> None:
    settings = Settings(base=tiny.schnell(), steps=20, pairs=12)
    assert not changed_by_a_kill(settings, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_kill_9_of_two_processes_and_resume_changes_no_bit(tmp_path: Path, parallel: Literal["ddp", "fsdp"]) -> None:
    settings = Settings(base=tiny.schnell(), steps=12, pairs=12, processes=2, parallel=parallel, threads=1)
    assert not changed_by_a_kill(settings, tmp_path)


TWICE = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
"""Before a script that two processes run together."""


def environment() -> dict[str, str]:
    """That of processes which import what this test does."""
    paths = [str(Path(__file__).parent), str(Path(dsd.__file__).parents[1])]
    return os.environ | {"ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.slow
def test_accelerate_launches_the_command_by_its_module(tmp_path: Path) -> None:
    dataset_in(tmp_path / "dataset")
    config = small_config(steps=2, batch_size=4, optimizer="adamw")
    settings = {name: getattr(config, name) for name in ("base", "rank", "steps", "batch_size", "optimizer", "warmup",
                "max_sequence_length", "held_out", "sample_every", "checkpoint_every")}  # fmt: skip
    words = [word for name, value in settings.items() for word in (f"--train.{name.replace('_', '-')}", str(value))]
    launch = [
        sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    out = tmp_path / "run"
    command = [*launch, "-m", "dsd", "train", "tiny", "--data", str(tmp_path / "dataset"), "--out", str(out), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (out / "adapter" / "adapter.safetensors").is_file()
    assert json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


@pytest.mark.slow
def test_two_processes_that_get_sigterm_end_at_the_same_step(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from pathlib import Path; from training_parts import *\n"
        "config = small_config(base=sys.argv[1], steps=300, checkpoint_every=290, sample_every=900)\n"
        "try: trainer.train(config, simple_pairs(), Path(sys.argv[2]))\n"
        "except SystemExit as ended: print('ended with', ended.code, flush=True)\n"
    )
    run = tmp_path / "run"
    process = subprocess.Popen(
        [*TWICE, str(script), tiny.schnell(), str(run)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (run / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.terminate()  # of the launcher, which tells both
    said, errors = process.communicate(timeout=60)
    assert said.count("ended with 0") == 2 and errors.count("stopped by SIGTERM") == 1, errors[-2000:]
    ((step, _),) = checkpoint.step_folders(run / "checkpoints")
    assert 20 <= step < 290
