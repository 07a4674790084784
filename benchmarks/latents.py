"""How fast a cache of FLUX.1-dev's shape is checked and read, in how much memory, and whether training waits for it.

    python benchmarks/latents.py --pairs 512 --batch 8 --step-seconds 1.0

Its values are random, so no model is needed. The files are in the page cache unless there is little memory; give more
pairs than fit to measure the disk.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from PIL import Image
from torch import Tensor

from dsd.backbones.protocol import Text
from dsd.data.latents import CacheKey, LatentCache, Samples, build_cache
from dsd.data.own import OwnExample
from dsd.train.ahead import Ahead
from dsd.train.batches import Batches

_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is made and read.

    Attributes:
        pairs: in the cache; 5 MiB each.
        batch: pairs a part of a step.
        steps: parts that are read.
        step_seconds: that the accelerator takes for a part.
        folder: of a cache that is there already, to only read it.
    """

    pairs: int = 512
    batch: int = 8
    steps: int = 40
    step_seconds: float = 1.0
    folder: Path | None = None


class RandomModel:
    """Encodes everything as random values of FLUX.1-dev's shapes."""

    device = torch.device("cpu")

    def check_size(self, height: int, width: int) -> None:
        """Takes all."""

    def encode(self, images: Tensor) -> Tensor:
        """Latents."""
        return torch.randn(len(images), 16, images.shape[2] // 8, images.shape[3] // 8)

    def encode_text(self, captions: Sequence[str], tokens: int) -> Text:
        """T5 rows and CLIP's vector."""
        rows = torch.randn(tokens, 4096).bfloat16()
        return Text(
            torch.stack([rows.roll(k) for k in range(len(captions))]), torch.randn(len(captions), 768).bfloat16()
        )


def make(folder: Path, pairs: int) -> None:
    """A cache of random values."""

    def example(number: int) -> OwnExample:
        first, second = (Image.new("RGB", (512, 512), (number % 256, number // 256, k)) for k in (0, 1))
        name = f"pair {number}"
        return OwnExample(id=name, grid=name, references=(first,), targets=(second,), caption=name)

    key = CacheKey(base="random", data=str(pairs), frame_size=None, max_sequence_length=512)
    model: Any = RandomModel()
    build_cache(map(example, range(pairs)), model, folder, key, total=pairs)


def read(folder: Path, settings: Settings) -> None:
    """Reads batches as training does, and prints what was measured."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    before, start = _resident(), time.perf_counter()
    cache = LatentCache(folder)
    checked = time.perf_counter() - start
    batches = Batches.of(range(len(cache)), cache.size, settings.batch, seed=0)

    def samples(step: int) -> Samples:
        return cache.samples(batches.at(step)[0].rows)

    start = time.perf_counter()
    batch = [samples(step) for step in range(settings.steps)][-1]
    alone = (time.perf_counter() - start) / settings.steps
    taken = batch.frames.nbytes + batch.text.tokens.nbytes
    del batch
    ahead, waits = Ahead(samples, settings.steps), []
    for step in range(settings.steps):
        start = time.perf_counter()
        ahead.take(step)
        waits.append(time.perf_counter() - start)
        time.sleep(settings.step_seconds)
    print(f"cache           {size / _MIB:,.0f} MiB, {len(cache):,} pairs")
    print(f"checked         in {checked:.2f} s, {size / _MIB / checked:,.0f} MiB/s")
    print(f"read            {alone * 1000:.1f} ms a batch of {settings.batch}, {taken / _MIB / alone:,.0f} MiB/s")
    print(
        f"waited          {1000 * waits[0]:.1f} ms for the first batch, then {1000 * median(waits[1:]):.2f} ms (median)"
    )
    print(f"resident        {(_resident() - before) / _MIB:,.0f} MiB more than before the cache was opened")


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


def main(settings: Settings) -> None:
    """Makes a cache and has another process read it, whose memory shows nothing of the making."""
    if settings.folder is not None:
        read(settings.folder, settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), settings.pairs)
        words = [f"--folder={folder}", f"--batch={settings.batch}", f"--steps={settings.steps}"]
        words.append(f"--step-seconds={settings.step_seconds}")
        subprocess.run([sys.executable, __file__, *words], check=True)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
