"""What the step cache and fewer steps cost the shipped student in identity and prompt following, and what they save.

    python benchmarks/speed_levels.py --subjects 32 --steps 16 10 8 --thresholds 0 0.1 0.2 0.4

Draws the same held-out individuals under the same prompts and seeds with each setting (threshold 0 at the student's own
number of steps is lossless), and prints a row each.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from dsd.devices import default_device
from dsd.evaluate.benchmark import Benchmark
from dsd.evaluate.bootstrap import bootstrap
from dsd.evaluate.measure import Ruler
from dsd.evaluate.metrics.protocol import Bench
from dsd.evaluate.scores import Scores
from dsd.evaluate.seen import Drawn, Pictures
from dsd.generate import fast, step_cache
from dsd.generate.memory import Memory, place
from dsd.generate.two_frame import TwoFramePipeline
from dsd_world.benchmark import DrawnBenchmark, agreement_encoder, identity_encoder

METRICS = ("identity", "prompt_following")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is drawn.

    Attributes:
        subjects: held-out individuals, each under four prompts.
        steps: numbers of Euler steps.
        thresholds: of the step cache; 0 is without.
        batch: pictures at once.
        memory: how the model is kept.
        float8: whether the layers that level fast takes round as float8 does, computed in float32.
        values: gets a line for each setting, with the values of each subject.
    """

    subjects: int = 32
    steps: tuple[int, ...] = (16, 10, 8)
    thresholds: tuple[float, ...] = (0.0, 0.1, 0.2, 0.4)
    batch: int = 16
    memory: Memory = "none"
    float8: bool = False
    values: Path | None = None


def measure(settings: Settings) -> None:
    """Prints the table; each row also against the first, subject by subject."""
    benchmark = DrawnBenchmark(subjects=settings.subjects, repeats=1).build()
    bench = Bench(
        benchmark=benchmark, identity=identity_encoder(), agreement=agreement_encoder(), likeness={}, faces=None,
        judge=None, shown=METRICS,
    )  # fmt: skip
    ruler = Ruler(bench)
    pipeline = TwoFramePipeline.from_pretrained("embedded:tiny-flux", adapter="embedded:tiny-student")
    if settings.float8:
        _round_as_float8(pipeline)
    place(pipeline, default_device(), settings.memory)
    pipeline.set_progress_bar_config(disable=True)
    print("| steps | threshold | identity | change | prompt following | change | blocks skipped | CPU seconds |")
    print("|---|---|---|---|---|---|---|---|")
    lossless: Scores | None = None
    for threshold in settings.thresholds:
        for steps in settings.steps:
            cache = step_cache.apply(pipeline, threshold)
            started = time.process_time()
            drawn = _drawn(pipeline, benchmark, steps, settings.batch)
            seconds = (time.process_time() - started) / sum(len(one.asked.images) for one in drawn)
            scores = ruler.measure(f"{steps} {threshold}", drawn)
            lossless = lossless or scores
            if settings.values is not None:
                line = {"steps": steps, "threshold": threshold, "skipped": cache.skipped, **scores.runs[0]}
                with settings.values.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")
            cells = [cell for metric in METRICS for cell in _cells(scores, lossless, metric)]
            print(
                f"| {steps} | {threshold:g} | {' | '.join(cells)} | {cache.skipped:.0%} | {seconds:.3f} |", flush=True
            )


def _drawn(pipeline: TwoFramePipeline, benchmark: Benchmark, steps: int, batch: int) -> list[Drawn]:
    requests = [request for number in range(len(benchmark.subjects)) for request in benchmark.requests(number)]
    pictures: list[Any] = []
    for start in range(0, len(requests), batch):
        some = requests[start : start + batch]
        drawn: Any = pipeline(
            [one.prompt for one in some],
            image=[[one.reference] for one in some],
            num_inference_steps=steps,
            generator=[torch.Generator().manual_seed(one.seed) for one in some],
        )
        pictures += drawn.images
    each = len(requests) // len(benchmark.subjects)
    return [Drawn(asked=Pictures(pictures[at : at + each])) for at in range(0, len(pictures), each)]


def _round_as_float8(pipeline: TwoFramePipeline) -> None:
    for blocks in pipeline.backbone.layers.blocks:
        for name, layer in pipeline.backbone.transformer.get_submodule(blocks).named_modules():
            if isinstance(layer, nn.Linear) and fast.multiplies(layer, name):
                layer.weight.data = _rounded(layer.weight.data)
                layer.register_forward_pre_hook(lambda _, given: (_rounded(given[0]),))


def _rounded(values: Tensor) -> Tensor:
    """As float8 with a scale each row."""
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-12) / torch.finfo(torch.float8_e4m3fn).max
    return (values / scale).to(torch.float8_e4m3fn).to(values.dtype) * scale


def _cells(scores: Scores, lossless: Scores, metric: str) -> list[str]:
    estimate = scores.estimate(metric)
    change = bootstrap([a - b for a, b in zip(scores.values[metric], lossless.values[metric], strict=True)])
    return [
        f"{estimate.mean:.3f} ({estimate.low:.3f} to {estimate.high:.3f})",
        f"{change.mean:+.3f} ({change.low:+.3f} to {change.high:+.3f})",
    ]


if __name__ == "__main__":
    measure(tyro.cli(Settings, description=__doc__))
