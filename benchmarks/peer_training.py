"""Milliseconds a step and loss curves: `dsd train` beside the control-LoRA training script of diffusers, on a CPU.

    git clone https://github.com/huggingface/diffusers
    python benchmarks/peer_training.py diffusers

Both train the embedded model on the same canvases, two frames of 96x48 pixels side by side, in batches of one size,
with the same rank, layers, rate, uniform noise levels and objective: the mean error over the canvas. The script pads
captions to 512 tokens and has no setting for it, so ours is measured so too, and once more with captions of the length
that its recipe has. Runs take turns, each in a process of its own. torchvision is not needed: the three transforms that
the script takes of it, which change no picture of the canvases' own size, stand in its place.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import tyro

from dsd.config import from_json, to_json
from dsd.errors import UserError
from dsd.images import fit
from dsd.models import resolve
from dsd_world.drawn_pairs import drawn_pairs

FRAME = (96, 48)
SCRIPT = "examples/flux-control/train_control_lora_flux.py"
PEER_TOKENS = 512
_LIKE = 3.0  # standard errors by which mean losses of the same training may differ


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        steps: of each run.
        batch: pairs a step.
        pairs: to train on.
        rank: of the LoRA.
        rate: of learning.
        tokens: of captions, in the run that has its own length.
        rounds: of runs that take turns.
        threads: of torch, the same in every process.
    """

    steps: int = 200
    batch: int = 8
    pairs: int = 512
    rank: int = 16
    rate: float = 1e-3
    tokens: int = 48
    rounds: int = 2
    threads: int = torch.get_num_threads()


@dataclass(frozen=True)
class Curve:
    """A run's losses, and the moments, in seconds, at which steps ended."""

    losses: list[float]
    ends: list[float]

    @property
    def milliseconds(self) -> float:
        """Of a step: the median of all after the first tenth."""
        ends = self.ends[len(self.ends) // 10 :]
        return 1000 * statistics.median(later - before for before, later in pairwise(ends))

    @property
    def late(self) -> list[float]:
        """Losses of the second half."""
        return self.losses[len(self.losses) // 2 :]


def main(checkout: Path, given: Settings) -> None:
    """Prints the versions, a line a run, and how both compare.

    Args:
        checkout: folder of diffusers' repository.
        given: what is compared.

    Raises:
        UserError: the folder does not hold the script, or a run failed.
    """
    if not (checkout / SCRIPT).is_file():
        raise UserError(f'"{checkout}" holds no {SCRIPT}; give the folder of a checkout of diffusers\' repository')
    print(json.dumps({"script": SCRIPT, "version": _version(checkout), "torch": torch.__version__, **vars(given)}))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _prepare(folder, given)
        ways = {
            "diffusers' script": ["--peer", str((checkout / SCRIPT).absolute())],
            f"dsd, captions of {PEER_TOKENS} tokens": ["--ours", str(PEER_TOKENS)],
            f"dsd, captions of {given.tokens} tokens": ["--ours", str(given.tokens)],
        }
        curves: dict[str, list[Curve]] = {name: [] for name in ways}
        for turn in range(given.rounds):
            for name, words in ways.items():
                curve = _run(words, folder, given)
                curves[name].append(curve)
                late = statistics.fmean(curve.late)
                print(f"round {turn + 1}, {name}: {curve.milliseconds:.1f} ms a step, late loss {late:.4f}", flush=True)
    peer = curves.pop("diffusers' script")
    for name, ours in curves.items():
        ratios = [one.milliseconds / other.milliseconds for one, other in zip(peer, ours, strict=True)]
        print(f"{name}: {min(ratios):.2f} to {max(ratios):.2f} times as fast; {_compared(peer, ours)}")


def _compared(peer: list[Curve], ours: list[Curve]) -> str:
    ones, others = ([loss for curve in curves for loss in curve.late] for curves in (peer, ours))
    off = statistics.fmean(others) - statistics.fmean(ones)
    error = math.hypot(*(statistics.stdev(losses) / len(losses) ** 0.5 for losses in (ones, others)))
    equal = "equal within noise" if abs(off) <= _LIKE * error else "NOT equal within noise"
    return f"late losses differ by {off:+.4f} with a standard error of {error:.4f}: {equal}"


def _version(checkout: Path) -> str:
    found = re.search(r'__version__ = "(.+)"', (checkout / "src/diffusers/__init__.py").read_text())
    commit = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
    return f"{found[1] if found else 'of no number'}, commit {commit.stdout.strip()[:12] or 'unknown'}"


def _prepare(folder: Path, given: Settings) -> None:
    """The base model, with noise levels unshifted, as the script has them, and the data in both forms."""
    base = folder / "base"
    shutil.copytree(resolve("embedded:tiny-flux"), base)
    scheduler = base / "scheduler" / "scheduler_config.json"
    scheduler.write_text(json.dumps(json.loads(scheduler.read_text()) | {"base_shift": 0.0, "max_shift": 0.0}))
    pictures, height, width = folder / "pictures", *FRAME
    pictures.mkdir()
    ours, peers = [], []
    for number, pair in enumerate(drawn_pairs(given.pairs)):
        frames = [fit(image, FRAME)[0] for image in (pair.reference, pair.target)]
        names = [f"{number}-{kind}.png" for kind in ("reference", "target", "canvas", "condition")]
        canvas, condition = (frames[0].resize((2 * width, height)) for _ in range(2))
        condition.paste((0, 0, 0), (0, 0, 2 * width, height))
        for place, frame in enumerate(frames):
            canvas.paste(frame, (place * width, 0))
        condition.paste(frames[0], (0, 0))
        for name, picture in zip(names, (*frames, canvas, condition), strict=True):
            picture.save(pictures / name)
        ours.append({"reference": names[0], "target": names[1], "caption": pair.target_caption})
        paths = [str(pictures / name) for name in names]
        peers.append({"image": paths[2], "caption": pair.target_caption, "condition": paths[3]})
    (pictures / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ours))
    (folder / "peer.jsonl").write_text("".join(json.dumps(row) + "\n" for row in peers))


def _run(words: list[str], folder: Path, given: Settings) -> Curve:
    script = Path(__file__).with_name("peer_runs.py")
    ended = subprocess.run(
        [sys.executable, str(script), *words, str(folder), to_json(given)], capture_output=True, text=True, cwd=folder
    )
    if ended.returncode:
        raise UserError(f"a run failed with status {ended.returncode}: {ended.stderr[-2000:]}")
    found = json.loads((folder / "curve.json").read_text())
    return Curve(found["losses"], found["ends"])


def settings_of(text: str) -> Settings:
    """What `to_json` wrote."""
    return from_json(Settings, text)


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Trains with diffusers' script and with ours in turns, and compares speed and losses.

    Attributes:
        checkout: folder of diffusers' repository.
        given: what is compared.
    """

    checkout: tyro.conf.Positional[Path]
    given: tyro.conf.OmitArgPrefixes[Settings]


if __name__ == "__main__":
    words = tyro.cli(_Words)
    main(words.checkout, words.given)
