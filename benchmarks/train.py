"""Milliseconds a sample of a training step: as a recipe comes, and by gradient checkpointing, batch and compiling.

    python benchmarks/train.py                                           # the embedded model, also on a CPU
    python benchmarks/train.py --size flux-dev --weights random          # FLUX.1-dev's shape, for a GPU of 80 GB

Steps are those of `dsd train`: its losses, adapter, optimizer and averages, on random latents and texts. The first row
is what `dsd train` chooses on this device when nothing is set by hand; then come the settings one by one, and last the
frozen layers of the base in float8, where a device multiplies it. Each figure is the least of several steps. Operations
are counted by torch; the floor is what the device's matrix products reach, measured first, without anything that is
computed again.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dsd.attention import in_right_attention, right_attention
from dsd.backbones.protocol import Text
from dsd.backbones.registry import load_backbone
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import Samples
from dsd.devices import default_device
from dsd.errors import import_extra, reason_of
from dsd.frames import Film
from dsd.generate import fast
from dsd.recipes.registry import recipe
from dsd.train import fitting
from dsd.train.adapter import Adapter, attach
from dsd.train.checkpointing import checkpoint_gradients, compile_and_checkpoint
from dsd.train.compiled import as_written
from dsd.train.config import Checkpointing, TrainConfig
from dsd.train.ema import Ema
from dsd.train.optim import MuonAndAdamW
from dsd.train.step import Objective, draw, losses
from dsd.train.task import optimizer_of


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        size: "tiny" is the embedded model with its recipe, "flux-dev" a model of FLUX.1-dev's shape with its recipe.
        weights: random ones; FLUX.1-dev's do not ship.
        frame: height and width of a frame in pixels; 64 of the tiny model and 512 of FLUX.1-dev when left out.
        batch: samples at once.
        checkpointing: levels of `dsd.train.checkpointing`.
        compiled: whether blocks are compiled; both ways are measured.
        steps: measured ones, after the first.
    """

    size: Literal["tiny", "flux-dev"] = "tiny"
    weights: Literal["shipped", "random"] = "shipped"
    frame: int | None = None
    batch: tuple[int, ...] = (1, 2, 4, 8)
    checkpointing: tuple[Checkpointing, ...] = ("off", "selective", "full")
    compiled: tuple[bool, ...] = (False, True)
    steps: int = 3


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A model with all that a step needs."""

    config: TrainConfig
    backbone: StockBackbone
    adapter: Adapter
    objective: Objective
    optimizer: MuonAndAdamW
    ema: Ema
    device: str
    side: int
    accelerator: Accelerator

    def sizes(self) -> dict[int, int]:
        """The one size, and its image tokens."""
        return {0: self.objective.film.frames * self.backbone.tokens_per(self.side, self.side)}

    def example(self, size: int, count: int, first: int = 0) -> Tensor:
        """The loss on some samples, the same whenever it is asked for."""
        drawn = draw(self.objective, first + count, torch.Generator().manual_seed(0))
        drawn = drawn.take(slice(first, first + count), self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
            return losses(self.backbone, self.objective, _samples(self.objective, count, first), drawn)["loss"]

    def work_in(self, parts: int) -> None:
        """Nothing: each row says how many samples it takes at once."""

    def step(self, batch: int, number: int) -> tuple[float, float, float]:
        """Seconds of both passes and of the optimizer, and the loss."""
        samples = _samples(self.objective, batch)
        drawn = draw(self.objective, batch, torch.Generator().manual_seed(number)).take(slice(None), self.device)
        began = self._now()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
            loss = losses(self.backbone, self.objective, samples, drawn)["loss"]
        loss.backward()
        passed = self._now()
        self.optimizer.update(1.0)
        self.ema.update(number)
        return passed - began, self._now() - passed, float(loss.detach())

    def clear(self) -> None:
        """Forgets gradients, as after a step that did not fit."""
        for parameter in self.adapter.parameters.values():
            parameter.grad = None
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

    def _now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


@in_right_attention
def main(given: Settings) -> None:
    """Prints a line of JSON for each setting."""
    bench = _bench(given)
    speed = _products(bench.device)
    print(json.dumps({"device": _name(bench.device), "torch": torch.__version__, "products": f"{speed:.3g} FLOP/s"}))
    least = _operations(bench, "off")
    _as_it_comes(bench, given, least, speed)
    for compiled in given.compiled:
        for level in given.checkpointing:
            operations = _operations(bench, level)
            if compiled:
                compile_and_checkpoint(bench.backbone, level)
            for batch in given.batch:
                row: dict[str, object] = {"checkpointing": level, "compiled": compiled, "batch": batch}
                with _room(bench, row):
                    print(json.dumps(row | _measured(bench, batch, given.steps, operations, least / speed)), flush=True)
    _in_float8(bench, given, least, speed)


def _as_it_comes(bench: Bench, given: Settings, least: float, speed: float) -> None:
    """The row of what is chosen when nothing is set by hand."""
    began = time.perf_counter()
    fitted = fitting.fit(bench, bench.config.batch_size)
    chosen = fitted.choice
    row: dict[str, object] = {
        "setting": "as the recipe comes", "checkpointing": chosen.level, "compiled": fitted.compiled,
        "batch": chosen.samples, "chosen in s": round(time.perf_counter() - began, 1),
    }  # fmt: skip
    with as_written():
        operations = _counted(bench)
    with right_attention(bench.device, fitted.attention), _room(bench, row):
        print(json.dumps(row | _measured(bench, chosen.samples, given.steps, operations, least / speed)), flush=True)


def _in_float8(bench: Bench, given: Settings, least: float, speed: float) -> None:
    """The row of a base in float8: changes the model, so it is the last."""
    row: dict[str, object] = {"setting": "frozen layers in float8", "checkpointing": "off", "compiled": True}
    device = torch.device(bench.device)
    capability = torch.cuda.get_device_capability() if device.type == "cuda" else None
    refused = fast.refused_on(device, capability, _name(bench.device))
    if refused is not None:
        print(json.dumps(row | {"runs": False, "why": refused}))
        return
    quantization = import_extra("torchao.quantization", fast.EXTRA)
    config = quantization.Float8DynamicActivationFloat8WeightConfig(granularity=quantization.PerRow())
    for block in bench.backbone.blocks:
        quantization.quantize_(
            block, config, filter_fn=lambda layer, name: fast.multiplies(layer, name) and not layer.weight.requires_grad
        )
    compile_and_checkpoint(bench.backbone, "off")
    for batch in given.batch:
        with _room(bench, row | {"batch": batch}):
            try:
                figures = _measured(bench, batch, given.steps, least, least / speed)
            except (NotImplementedError, RuntimeError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                print(json.dumps(row | {"batch": batch, "runs": False, "why": reason_of(error)}), flush=True)
                return
            print(json.dumps(row | {"batch": batch} | figures), flush=True)


def _measured(bench: Bench, batch: int, steps: int, operations: float, floor: float) -> dict[str, object]:
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    bench.step(batch, 0)
    first = time.perf_counter() - began
    passes, updates, found = zip(*(bench.step(batch, number + 1) for number in range(steps)), strict=True)
    seconds = min(passes) / batch
    figures: dict[str, object] = {
        "ms a sample": round(1000 * seconds, 1), "ms of optimizer": round(1000 * min(updates), 1),
        "TFLOP/s": round(operations / seconds / 1e12, 3), "share of the floor": round(floor / seconds, 3),
        "first step s": round(first, 1), "finite": bool(torch.tensor(found).isfinite().all()),
    }  # fmt: skip
    if bench.device == "cuda":
        figures["peak GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    return figures


def _bench(given: Settings) -> Bench:
    device = default_device()
    config = recipe("tiny" if given.size == "tiny" else "flux-dev").train
    if given.size == "tiny":
        config = replace(config, gradient_checkpointing="auto", gradient_accumulation="auto")
    if given.size == "tiny":
        backbone = load_backbone(config.base, device=device, dtype=torch.float32, text=False)
    else:
        from flux_dev import flux_dev

        backbone = flux_dev(device).backbone
    side = given.frame or (64 if given.size == "tiny" else 512)
    if given.size == "tiny":
        backbone.widen()
    adapter = attach(
        backbone.transformer, backbone.layers, rank=config.rank, targets=config.lora_targets, seed=config.seed
    )
    stock = backbone.transformer.config
    frozen = torch.bfloat16 if config.mixed_precision == "bf16" else torch.float32
    text = Text(
        torch.randn(1, config.max_sequence_length, stock.joint_attention_dim, device=device, dtype=frozen),
        torch.randn(1, stock.pooled_projection_dim, device=device, dtype=frozen),
    )
    latents = side // backbone.pixels_per_latent
    film = Film.two_frame(config.reference_weight)
    objective = Objective(
        film=film, empty_frame=torch.randn(1, backbone.latent_channels, latents, latents, device=device),
        empty_text=text, text_dropout=config.text_dropout, image_dropout=config.image_dropout,
        sigma_density=config.sigma_density, guidance=config.guidance,
        shift=backbone.shift(film.frames * backbone.tokens_per(side, side), config.sampling.steps),
    )  # fmt: skip
    return Bench(
        config=config, backbone=backbone, adapter=adapter, objective=objective, device=device, side=side,
        accelerator=Accelerator(),
        optimizer=optimizer_of(config, {"transformer": adapter.transformer}, backbone.layers.not_matrices),
        ema=Ema(adapter.parameters, config.ema_decay),
    )  # fmt: skip


def _samples(objective: Objective, batch: int, first: int = 0) -> Samples:
    """Random samples, each by its own number."""
    shape = (objective.film.frames, *objective.empty_frame.shape[1:])
    numbers = range(first, first + batch)
    frames = torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(number)) for number in numbers])
    return Samples(frames.to(objective.empty_frame.device), objective.empty_text.take([0] * batch))


def _operations(bench: Bench, level: Checkpointing) -> float:
    checkpoint_gradients(bench.backbone, level)
    return _counted(bench)


def _counted(bench: Bench) -> float:
    with FlopCounterMode(display=False) as counter:
        samples = _samples(bench.objective, 1)
        drawn = draw(bench.objective, 1, torch.Generator().manual_seed(0)).take(slice(None), bench.device)
        with torch.autocast(bench.device, torch.bfloat16, enabled=bench.config.mixed_precision == "bf16"):
            losses(bench.backbone, bench.objective, samples, drawn)["loss"].backward()
    bench.clear()
    return float(counter.get_total_flops())


def _products(device: str) -> float:
    """Operations a second of large matrix products."""
    side, dtype = (8192, torch.bfloat16) if device == "cuda" else (1024, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))

    def timed(times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    timed(5)
    return 20 * 2 * side**3 / timed(20)


def _name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


@contextmanager
def _room(bench: Bench, row: dict[str, object]) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        print(json.dumps(row | {"fits": False}), flush=True)
        bench.clear()


if __name__ == "__main__":
    main(tyro.cli(Settings))
