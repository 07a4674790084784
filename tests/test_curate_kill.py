"""A curation that is killed and started again ends like one that was not; see benchmarks/kill_curation.py."""

from __future__ import annotations

import sys
from pathlib import Path

import curation_parts as parts
from chat_server import chat_server

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from kill_curation import Settings, differences, run_here, run_killed


def test_kill_9_and_resume_changes_no_byte(tmp_path: Path) -> None:
    captions = parts.write_captions(tmp_path / "captions.parquet")
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    with chat_server() as server:
        settings = Settings(curate=parts.config(captions, f"openai:test@{server.url}"), threads=1)
        run_here(settings, undisturbed)
        assert run_killed(settings, killed, 0.0, wait_for=killed / "grids" / "00001.parquet")
        assert len(list(killed.glob("units/0*.json"))) < 2  # the first may be judged while the second is drawn
        assert run_killed(settings, killed, 0.0, wait_for=killed / "pairs" / "00001.parquet")
        assert len(list(killed.glob("units/0*.json"))) < 3
        assert not (killed / "manifest.json").exists()
        run_here(settings, killed)
    assert not differences(undisturbed, killed)
