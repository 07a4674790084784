"""A training run that is killed and started again ends like one that was not; see benchmarks/kill_training.py."""

from __future__ import annotations

import sys
from pathlib import Path

import tiny

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_training import Settings, differences, run_here, run_killed


def test_kill_9_and_resume_changes_no_bit(tmp_path: Path) -> None:
    settings = Settings(base=tiny.schnell(), steps=20, pairs=12)
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run_here(settings, undisturbed)
    assert run_killed(settings, killed, 0.02, wait_for=killed / "checkpoints" / "step-0000005")
    assert not (killed / "adapter").exists()
    run_here(settings, killed)
    assert not differences(undisturbed, killed)
