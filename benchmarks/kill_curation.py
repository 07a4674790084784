"""Kills a curation at random moments, starts it again, and compares every file with an undisturbed run's.

    python benchmarks/kill_curation.py --kills 10

The moments spread over the whole run: reading captions, loading, drawing, judging, writing shards and records.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import killing
import torch
import tyro
from killing import file_bytes

from dsd.config import from_json, to_json
from dsd.curate.config import CurateConfig
from dsd.curate.pipeline import curate
from dsd_world.captions import write_captions
from dsd_world.recipe import tiny


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        curate: the curation; an empty name of captions stands for captions of the drawn world.
        kills: how often it is killed.
        threads: of torch, the same in every process.
        seed: of the moments.
    """

    curate: CurateConfig = field(default_factory=lambda: replace(tiny().curate, captions="", units=6, unit_size=4))
    kills: int = 10
    threads: int = torch.get_num_threads()
    seed: int = 0


def run_here(settings: Settings, folder: Path) -> float:
    """Starts or resumes the curation in this process; returns its seconds."""
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    curate(settings.curate, folder)
    return time.perf_counter() - began


def run_killed(settings: Settings, folder: Path, seconds: float, *, wait_for: Path | None = None) -> bool:
    """Starts or resumes the curation in a process of its own and kills it; see `killing.run_killed`."""
    return killing.run_killed(__file__, to_json(settings), folder, seconds, wait_for=wait_for)


def differences(one: Path, other: Path) -> list[str]:
    """Files of two datasets that are not byte for byte the same, or are missing on a side."""
    files = {str(path.relative_to(root)) for root in (one, other) for path in root.rglob("*") if path.is_file()}
    return sorted(name for name in files if file_bytes(one / name) != file_bytes(other / name))


def _done(folder: Path) -> dict[str, int]:
    """Units whose sheets are drawn, and units that are judged."""
    files = {"drawn": "grids/[0-9]*.parquet", "judged": "units/[0-9]*.json"}
    return {name: len(list(folder.glob(pattern))) for name, pattern in files.items()}


def main(settings: Settings) -> int:
    """Runs the comparison and prints its outcome; returns the exit status."""
    moments = random.Random(settings.seed)
    with tempfile.TemporaryDirectory() as scratch:
        settings = _with_captions(settings, Path(scratch) / "captions.parquet")
        undisturbed, killed = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        duration = run_here(settings, undisturbed)
        files = sum(path.is_file() for path in undisturbed.rglob("*"))
        print(f"undisturbed: {duration:.1f} s, {settings.curate.units} units, {files} files", flush=True)
        landed = 0
        for left in range(settings.kills, 0, -1):
            rest = duration * (1 - sum(_done(killed).values()) / (2 * settings.curate.units + 1))
            seconds = moments.uniform(0, 2 * rest / (left + 1))
            if not run_killed(settings, killed, seconds):
                break
            landed += 1
            leftovers = len(list(killed.rglob(".*.tmp")))
            print(f"kill {landed}: after {seconds:.2f} s, units: {_done(killed)}, {leftovers} torn", flush=True)
        run_here(settings, killed)
        different = differences(undisturbed, killed)
    print(f"{landed} kills, differing files: {different or 'none'}")
    return int(bool(different) or landed == 0)


def _with_captions(settings: Settings, path: Path) -> Settings:
    if settings.curate.captions:
        return settings
    write_captions(path, "training", 2 * settings.curate.units * settings.curate.unit_size)
    return replace(settings, curate=replace(settings.curate, captions=str(path)))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print("ready", flush=True)
        run_here(from_json(Settings, sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main(tyro.cli(Settings)))
