"""Kills curations on a cluster with -9 at random moments, starts each again, and compares all bytes with a local run.

    python benchmarks/kill_cluster.py --kills 10     # in turn a worker, a node, the driver

Models are tiny random ones and a chat server on loopback, as in the tests. A run is killed once, at a random moment of
loading or, mostly, of work; `kill_curation.py` kills one without a cluster again and again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
sys.path.append(str(Path(__file__).parents[1] / "tests"))

import curation_parts as parts
from chat_server import chat_server
from cluster_parts import NODE, POOLS, environment, two_nodes
from kill_curation import differences

from dsd.config import from_json, to_json
from dsd.curate.config import CurateConfig
from dsd.curate.executors.ray import Ray
from dsd.curate.pipeline import curate
from dsd_world.captions import write_captions

UNITS = 12
VICTIMS = ("worker", "node", "driver")
WORKING = 0.8
"""Share of kills while units are in work; the others are before."""


def main() -> int:
    """Runs what was asked for; returns the exit status."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--kills", type=int, default=10)
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    os.environ["DSD_KILLS"] = str(os.getpid())  # inherited by all processes of the cluster
    with tempfile.TemporaryDirectory() as scratch, chat_server() as server, two_nodes(connected=False) as cluster:
        captions = Path(scratch) / "captions.parquet"
        write_captions(captions, "training", 4 * UNITS)
        config = parts.config(str(captions), f"openai:test@{server.url}", units=UNITS, unit_size=2)
        return compare(config, Path(scratch), cluster, given.kills, given.seed)


def compare(config: CurateConfig, scratch: Path, cluster: Any, kills: int, seed: int) -> int:
    """Kills and compares; returns the exit status."""
    moments, address = random.Random(seed), cluster.address
    undisturbed = scratch / "undisturbed"
    curate(config, undisturbed)
    began = time.perf_counter()
    run = start(config, scratch / "timed", address)
    _wait(run, scratch / "timed" / "config.json")
    loaded = time.perf_counter()
    _wait(run, scratch / "timed" / "manifest.json")
    ended = time.perf_counter()
    _finish(run)
    if different := differences(undisturbed, scratch / "timed"):
        print(f"without a kill: differing files: {different}")
        return 1
    funnel = json.loads((undisturbed / "funnel.json").read_text())
    loading, work = loaded - began, ended - loaded
    print(f"undisturbed: {loading:.1f} s until models are loaded, {work:.1f} s of work", flush=True)
    print(f"{funnel['candidates']} candidates, {funnel['kept']} kept", flush=True)
    bad = landed = number = 0
    while landed < kills:
        out, victim = scratch / f"killed-{number}", VICTIMS[landed % len(VICTIMS)]
        working = moments.random() < WORKING
        seconds = moments.uniform(0, work if working else loading)
        run = start(config, out, address)
        if working:
            _wait(run, out / "config.json")
        time.sleep(seconds)
        hit = run.poll() is None and _kill(victim, run, cluster, moments)
        state = {kind: len(list(out.glob(f"{kind}/0*"))) for kind in ("grids", "units")}
        if victim == "driver":
            run.wait()
            run = start(config, out, address)
        _finish(run)
        different = differences(undisturbed, out)
        bad, landed = bad + bool(different), landed + hit
        when = f"after {seconds:.1f} s of {'work' if working else 'loading'}"
        number += 1
        print(f"{number}: {victim} {when}, {state}, hit: {hit}, differing: {different}", flush=True)
    print(f"{landed} kills of {number} runs, {bad} datasets differ")
    return int(bad > 0)


def start(config: CurateConfig, out: Path, address: str) -> subprocess.Popen[bytes]:
    """Starts or resumes a curation on a cluster by a process of its own."""
    command = [sys.executable, __file__, "--child", to_json(config), str(out), address]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def child(config: CurateConfig, out: str, address: str) -> None:
    """What such a process does."""
    with Ray(address, POOLS, environment()) as executor:
        curate(config, out, executor)


def _wait(run: subprocess.Popen[bytes], file: Path) -> None:
    while not file.exists() and run.poll() is None:
        time.sleep(0.001)


def _finish(run: subprocess.Popen[bytes]) -> None:
    _, said = run.communicate()
    if run.returncode:
        raise RuntimeError(f"the run failed with status {run.returncode}: {said.decode()}")


def _kill(victim: str, run: subprocess.Popen[bytes], cluster: Any, moments: random.Random) -> bool:
    if victim == "driver":
        run.kill()
        return True
    if victim == "node":
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
        cluster.add_node(**NODE)
        return True
    found = [int(path.name) for path in Path("/proc").glob("[0-9]*") if _is_worker(path)]
    if found:
        os.kill(moments.choice(found), signal.SIGKILL)
    return bool(found)


def _is_worker(process: Path) -> bool:
    """Ray names a process by its actor; those of other people's clusters on this machine have other environments."""
    try:
        ours = f"DSD_KILLS={os.getpid()}".encode() in (process / "environ").read_bytes()
        return ours and (process / "cmdline").read_bytes().startswith(b"ray::Worker")
    except OSError:  # it has ended, or is not ours
        return False


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(from_json(CurateConfig, sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        sys.exit(main())
