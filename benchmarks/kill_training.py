"""Kills a training run at random moments, resumes it, and compares it with an undisturbed run, bit for bit.

    python benchmarks/kill_training.py --kills 10
    python benchmarks/kill_training.py --kills 5 --processes 2 --parallel fsdp

The moments spread over the whole run: encoding, steps, checkpoints, sample sheets and the export. Each is meant for a
random step: the checkpoint before it is waited for, and then about as long as the steps after it take. Of several
processes that train together one is killed, and a moment later the others, as a launcher does.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import killing
import torch
import tyro
from killing import file_bytes

import dsd.backbones.flux.backbone  # noqa: F401  (before "ready", or most kills would land in this import)
from dsd.config import from_json, to_json
from dsd.sampling import Sampling
from dsd.train import shards
from dsd.train.config import TrainConfig
from dsd.train.trainer import train
from dsd_world.drawn_pairs import drawn_pairs
from dsd_world.recipe import tiny

CHECKPOINT_EVERY = 5
COMPARED = ("adapter/*", "latents/[!.]*", "checkpoints/step-*/*", "samples/[!.]*", "config.json")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        base: model that is trained.
        kills: how often the run is killed.
        steps: of the run; a checkpoint is written each `CHECKPOINT_EVERY`.
        pairs: drawn pairs that it trains on.
        processes: that train together.
        parallel: what each of several holds of the model.
        threads: of torch, the same in every process.
        seed: of the moments.
    """

    base: str = "embedded:tiny-flux"
    kills: int = 10
    steps: int = 60
    pairs: int = 64
    processes: int = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"
    threads: int = torch.get_num_threads()
    seed: int = 0

    @property
    def config(self) -> TrainConfig:
        """The run's config."""
        return replace(
            tiny().train,
            base=self.base,
            steps=self.steps,
            batch_size=8,
            checkpoint_every=CHECKPOINT_EVERY,
            sample_every=20,
            sampling=Sampling(steps=4),
            held_out=2,
            parallel=self.parallel,
            optimizer="adamw" if self.parallel == "fsdp" else tiny().train.optimizer,
        )


def run_here(settings: Settings, folder: Path) -> float:
    """Starts or resumes the run in this process, or in several; returns its seconds."""
    began = time.perf_counter()
    if settings.processes == 1:
        _train(settings, folder)
    else:
        ended(together(settings.processes, _train, settings, folder))
    return time.perf_counter() - began


def run_killed(settings: Settings, folder: Path, seconds: float, *, wait_for: Path | None = None) -> bool:
    """Starts or resumes the run in processes of its own and kills them; see `killing.run_killed`."""
    if settings.processes > 1:
        processes = together(settings.processes, _train, settings, folder)
        while wait_for is not None and not wait_for.exists() and all(one.is_alive() for one in processes):
            time.sleep(0.001)
        chosen = random.Random(repr(seconds)).choice(processes)
        chosen.join(seconds)
        if chosen.is_alive():
            chosen.kill()
            chosen.join(0.05)
            for process in processes:
                process.kill()
                process.join()
            return True
        ended(processes)
        return False
    return killing.run_killed(__file__, to_json(settings), folder, seconds, wait_for=wait_for)


def _train(settings: Settings, folder: Path) -> None:
    torch.set_num_threads(settings.threads)
    train(settings.config, drawn_pairs(settings.pairs), folder)


def together(count: int, work: Callable[..., None], *arguments: object) -> list[BaseProcess]:
    """Starts processes that train together on this machine's CPU; all are copies of one that has imported everything.

    Args:
        count: of the processes.
        work: of each; a function of a module.
        *arguments: that it is called with.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [context.Process(target=_one, args=(number, count, port, work, arguments)) for number in range(count)]
    for process in processes:
        process.start()
    return list(processes)


def ended(processes: Sequence[BaseProcess]) -> None:
    """Waits for processes that train together.

    Raises:
        RuntimeError: one of them failed.
    """
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"the run failed with status {[process.exitcode for process in processes]}")


def _one(number: int, count: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ |= {
        "RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    work(*arguments)


def differences(one: Path, other: Path) -> list[str]:
    """Files of two finished runs that are not byte for byte the same, or are missing on a side.

    Those of shards are compared by their tensors, for the order of what their headers say is random.
    """
    files = {str(path.relative_to(root)) for root in (one, other) for glob in COMPARED for path in root.glob(glob)}
    differing = sorted(name for name in files if file_bytes(one / name) != file_bytes(other / name))
    return [name for name in differing if not _hold_same_shards((one / name).parent, (other / name).parent)]


def _hold_same_shards(one: Path, other: Path) -> bool:
    names, others = ([path.name for path in sorted(folder.glob("*"))] for folder in (one, other))
    if names != others or not any(name.startswith("shard-") for name in names):
        return False
    mine, theirs = shards.read(one, None), shards.read(other, None)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], value) for name, value in theirs.items())


def _steps_done(folder: Path) -> int:
    return max((int(path.name.removeprefix("step-")) for path in folder.glob("checkpoints/step-*")), default=0)


def main(settings: Settings) -> int:
    """Runs the comparison and prints its outcome; returns the exit status."""
    moments = random.Random(settings.seed)
    with tempfile.TemporaryDirectory() as scratch:
        undisturbed, killed = Path(scratch) / "undisturbed", Path(scratch) / "killed"
        duration = run_here(settings, undisturbed)
        print(f"undisturbed: {duration:.1f} s, {settings.steps} steps", flush=True)
        landed, pace = 0, duration / settings.steps
        for step in sorted(moments.randrange(settings.steps) for _ in range(settings.kills)):
            kept, done = step - step % CHECKPOINT_EVERY, _steps_done(killed)
            waited = killed / "checkpoints" / f"step-{kept:07d}" if kept > done else None
            seconds = pace * moments.uniform(0, step - (kept if waited else done) + 1)
            if not run_killed(settings, killed, seconds, wait_for=waited):
                break
            landed += 1
            print(f"kill {landed}: meant for step {step}, checkpoint {_steps_done(killed)}", flush=True)
        run_here(settings, killed)
        different = differences(undisturbed, killed)
    print(f"{landed} kills, differing files: {different or 'none'}")
    return int(bool(different) or landed == 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print("ready", flush=True)
        run_here(from_json(Settings, sys.argv[2]), Path(sys.argv[3]))
    else:
        sys.exit(main(tyro.cli(Settings)))
