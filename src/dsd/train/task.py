"""The two-frame task that `dsd.train.loop` runs: batches, optimizer steps, averages, held-out loss, sample sheets."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dsd.attention import in_right_attention
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.data.latents import LatentCache, Samples
from dsd.files import make_folder, write_atomic
from dsd.frames import Film
from dsd.images import encode_png
from dsd.log import console
from dsd.train.adapter import Adapter
from dsd.train.ahead import Ahead
from dsd.train.batches import Batch, Batches
from dsd.train.compiled import as_written
from dsd.train.config import TrainConfig
from dsd.train.ema import Ema
from dsd.train.loop import SAMPLES, learning_rate_factor, step_generator
from dsd.train.metrics import GRADIENT_NORM, LARGEST_WEIGHT, LOSS
from dsd.train.optim import MuonAndAdamW
from dsd.train.parallel import Averaged, Model, is_sharded
from dsd.train.samples import SheetPart, pictures_of, rows_of, sheet_of
from dsd.train.shards import own, whole
from dsd.train.step import Draw, Objective, draw, losses
from dsd.train.stopping import together
from dsd.train.validate import Encoders, Validation

_HELD_OUT_AT_ONCE = 32
_IN_SHEETS = 8


@dataclass(frozen=True)
class Split:
    """Rows of a cache: those to train on, those held back, and those that are drawn (held back, where any are)."""

    training: list[int]
    held_out: list[int]
    shown: list[int]


def split_by_grid(grids: list[str], held_out: int, *, shown: int = _IN_SHEETS, says: bool = True) -> Split:
    """Holds back all pairs of the last grids, so that no held-out individual is trained on.

    Args:
        grids: of the rows.
        held_out: how many grids to hold back; fewer are, with a warning, where one at least would not be left.
        shown: of how many grids at most the first row is drawn.
        says: print the warning; False on all processes of a parallel run but the first.
    """
    names = list(dict.fromkeys(grids))
    count = min(held_out, len(names) - 1)
    last = names[len(names) - count :]
    back = set(last)
    training = [row for row, grid in enumerate(grids) if grid not in back]
    held = [row for row, grid in enumerate(grids) if grid in back]
    if count < held_out and says:
        which = f"held out are the examples {', '.join(str(row + 1) for row in held)}"
        if not held:
            which = "none is held out, and the sample sheets show examples that are trained on"
        console.print(
            f"warning: the examples come from {len(names)} grids (or groups, such as rows of one reference), of which "
            f"held_out = {held_out} would leave none to train on; {which}",
        )
    return Split(training, held, [grids.index(grid) for grid in (last or names)[:shown]])


def optimizer_of(config: TrainConfig, modules: dict[str, nn.Module], not_for_muon: tuple[str, ...]) -> MuonAndAdamW:
    """The optimizer of a config.

    Args:
        config: names it, and its rates.
        modules: whose trainable parameters it trains, by name.
        not_for_muon: parts of names of parameters that are no matrices to Muon, though they have two dimensions.
    """
    return MuonAndAdamW(
        modules,
        adamw_names=not_for_muon if config.optimizer == "muon" else ("",),
        muon_lr=config.muon_learning_rate,
        adamw_lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adamw_weight_decay=1e-4 if config.optimizer == "muon" else config.weight_decay,
        betas=(0.9, 0.95) if config.optimizer == "muon" else (0.9, 0.999),
        in_eight_bits=config.optimizer == "adamw8bit",
    )


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of a batch, ready to be worked through.

    Attributes:
        size: number of the samples' size.
        rows: of the cache.
        frames: latents (b, f, c, h, w).
        text: of the captions; None where they are yet to be encoded.
        draw: all that is random about the part.
    """

    size: int
    rows: list[int]
    frames: Tensor
    text: Text | None
    draw: Draw

    def pinned(self) -> _Part:
        """The same in memory that a GPU reads by itself."""
        text = self.text
        if text is not None:
            text = Text(text.tokens.pin_memory(), None if text.pooled is None else text.pooled.pin_memory())
        drawn = Draw(**{name: value.pin_memory() for name, value in vars(self.draw).items()})
        return replace(self, frames=self.frames.pin_memory(), text=text, draw=drawn)


class TwoFrameTask:
    """Two-frame training of a prepared backbone on a cache.

    Args:
        config: settings.
        backbone: prepared for the config's flavour, with its adapter attached.
        adapter: what is trained of it.
        cache: latents and texts of the pairs.
        accelerator: device and processes.
        folder: of the run; gets ``samples/``.
        encoders: that measure held-out drawings; None measures none.
    """

    def __init__(
        self,
        config: TrainConfig,
        backbone: StockBackbone,
        adapter: Adapter,
        cache: LatentCache,
        accelerator: Accelerator,
        folder: Path,
        encoders: Encoders | None = None,
    ) -> None:
        self.config, self.backbone, self.adapter, self.cache = config, backbone, adapter, cache
        self.accelerator, self.device, self.folder = accelerator, accelerator.device, folder
        self.rows = split_by_grid(cache.grids, config.held_out, shown=config.sampled, says=accelerator.is_main_process)
        self.parts = _parts(config, accelerator, config.parts)
        self.optimizer = optimizer_of(config, {"transformer": adapter.transformer}, backbone.layers.not_matrices)
        self.ema = Ema(adapter.parameters, config.ema_decay)
        if not cache.has_text:
            cache.encode_with(backbone, config.max_sequence_length)
        empty_text = cache.empty_text.to(self.device)
        self.objectives = [self._objective(size, empty_text) for size in range(len(cache.sizes))]
        self.validation = None if encoders is None else self._validation(encoders)
        self.batches = Batches.of(self.rows.training, cache.size, config.batch_size, config.seed)
        self._losses = Averaged(backbone, self._any_example)
        self._drawn: tuple[int, Batch, Draw] | None = None
        self._ahead = Ahead(self._part, config.steps * len(self.parts))

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step on one effective batch, whose randomness does not depend on how it is divided."""
        config = self.config
        sums: dict[str, Tensor] = {}
        for number in range(len(self.parts)):
            part = self._ahead.take(step * len(self.parts) + number)
            samples, drawn = self._on_device(part)
            with self._losses.part(last=number + 1 == len(self.parts)):
                with self._autocast():
                    found = self._losses(self.objectives[part.size], samples, drawn)
                (found["loss"] / len(self.parts)).backward()
            sums = {
                name: sums.get(name, torch.zeros_like(value)) + value.detach() / len(self.parts)
                for name, value in found.items()
            }
        means = self._average(torch.stack(list(sums.values())))
        factor = learning_rate_factor(step, config.steps, warmup=config.warmup, decay_from=config.decay_from)
        norm = whole(self.optimizer.update(factor))
        self.ema.update(step)
        return {**dict(zip(sums, means, strict=True)), "learning_rate_factor": factor, GRADIENT_NORM: norm}

    def work_in(self, parts: int) -> None:
        """Sets in how many parts this process works through its share of a batch; before the first step."""
        self.parts = _parts(self.config, self.accelerator, parts)
        self._ahead = Ahead(self._part, self.config.steps * len(self.parts))

    @property
    def at_once(self) -> int:
        """Samples that this process works through at once, in training, in held-out losses and in sheets."""
        return self.parts[0].stop - self.parts[0].start

    def sizes(self) -> dict[int, int]:
        """Numbers of the sizes that are trained on, and the image tokens of a sample of each."""
        frames = self.objective.film.frames
        return {size: frames * self.backbone.tokens_per(*self.cache.sizes[size]) for size in self.batches.rows}

    def example(self, size: int, count: int, first: int = 0, model: Model | None = None) -> Tensor:
        """The loss on ``count`` samples of a size, from one on; no step, and the same whenever it is asked for.

        Args:
            size: number of the samples' size.
            count: of samples.
            first: of them, among those of the size.
            model: called as `losses` is; the backbone's losses when left out.
        """
        rows = self.batches.rows[size]
        objective = replace(self.objectives[size], image_dropout=0.0)  # a sample that sees its reference takes most
        drawn = draw(objective, self.config.batch_size, step_generator(self.config.seed + 2, 0))
        chosen = [rows[number % len(rows)] for number in range(first, first + count)]
        with self._autocast():
            samples, random = self._samples(chosen), drawn.take(slice(first, first + count), self.device)
            return (model or partial(losses, self.backbone))(objective, samples, random)["loss"]

    @torch.no_grad()
    def proof(self) -> dict[str, float]:
        """Whether the weights as they now are, not their averages, make sense: their loss on a sample, their size."""
        with as_written():
            loss = float(self._any_example(partial(losses, self.backbone)))
        largest = max(float(own(value).abs().max()) for value in self.adapter.parameters.values() if own(value).numel())
        return {LOSS: loss, LARGEST_WEIGHT: largest}

    def _any_example(self, model: Model) -> Tensor:
        """The loss of a model on one sample."""
        return self.example(next(iter(self.batches.rows)), 1, model=model)

    @in_right_attention
    def operations(self) -> float:
        """Floating-point operations of an optimizer step in this process, as torch counts them on one sample.

        The counting itself takes other kernels, so it is no step that is trained on.
        """
        with as_written(), FlopCounterMode(display=False) as counter:
            self._any_example(partial(losses, self.backbone)).backward()
        self.backbone.transformer.zero_grad()
        return counter.get_total_flops() * self.config.batch_size / self.accelerator.num_processes

    @property
    def is_sharded(self) -> bool:
        """Whether each process holds a part of the weights, so that all have to evaluate and to save."""
        return is_sharded(self.backbone.transformer)

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights, their averages and the optimizer's state; the frozen base is known by its revision."""
        return self.ema.tensors() | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        self.ema.restore(tensors)
        self.optimizer.restore(tensors)

    def evaluate(self, step: int) -> dict[str, float]:
        """The averaged weights on the held-out pairs: their loss at fixed noise, and a sample sheet.

        All processes that hold shards of the weights evaluate, and the first one writes; else the first one alone.
        """
        with self.ema.in_place(), self._autocast():
            figures = self._held_out_losses()
            rows = rows_of(self._shown(), self.backbone, self.config.sampling, self.config.seed, self.at_once)
        with together() if self.is_sharded else nullcontext():
            if self.accelerator.is_main_process:
                if self.validation is not None:
                    figures |= self.validation.figures(rows)
                sheet = encode_png(sheet_of(rows[:_IN_SHEETS]))
                write_atomic(make_folder(self.folder / SAMPLES) / f"step-{step:07d}.png", sheet)
        return figures

    def _shown(self) -> list[SheetPart]:
        """What is drawn, by size."""
        return [
            SheetPart(self.objectives[size], self._samples(rows), [self.cache.captions[row] for row in rows])
            for size, rows in self._by_size(self.rows.shown)
        ]

    @torch.no_grad()
    def _validation(self, encoders: Encoders) -> Validation:
        parts = self._shown()
        films = [(p.objective.film, one[None]) for p in parts for one in p.samples.frames]  # one by one, for memory
        given = [pictures_of(self.backbone, film.references(frames)) for film, frames in films]
        wanted = [pictures_of(self.backbone, film.targets(frames)) for film, frames in films]
        return Validation(
            encoders,
            references=[pictures[0] for part in given for pictures in part],
            targets=[pictures for part in wanted for pictures in part],
            captions=[caption for part in parts for caption in part.captions],
        )

    @torch.no_grad()
    def _held_out_losses(self) -> dict[str, float]:
        generator, found = step_generator(self.config.seed + 1, 0), []
        held_out = self.rows.held_out[: 2 * _HELD_OUT_AT_ONCE]
        for size, rows in self._by_size(held_out):
            objective = replace(self.objectives[size], text_dropout=0.0, image_dropout=0.0)
            for start in range(0, len(rows), _HELD_OUT_AT_ONCE):
                part = rows[start : start + _HELD_OUT_AT_ONCE]
                drawn = draw(objective, len(part), generator)
                for first in range(0, len(part), self.at_once):
                    some = slice(first, first + self.at_once)
                    samples, random = self._samples(part[some]), drawn.take(some, self.device)
                    loss = losses(self.backbone, objective, samples, random)
                    found.append(torch.stack([loss["loss"], loss["loss_target"]]).cpu() * len(samples))
        if not found:
            return {}
        loss, loss_target = (torch.stack(found).sum(0) / len(held_out)).tolist()
        return {"held_out_loss": loss, "held_out_loss_target": loss_target}

    @property
    def objective(self) -> Objective:
        """That of most of the rows that are trained on."""
        return self.objectives[max(self.batches.rows, key=lambda size: len(self.batches.rows[size]))]

    def _objective(self, size: int, empty_text: Text) -> Objective:
        """What is learned from pairs of a size."""
        config, cache, backbone = self.config, self.cache, self.backbone
        film = Film.of(cache.references, cache.targets, config.reference_weight, config.flavour)
        return Objective(
            film=film,
            empty_frame=cache.empty_frames[size].float().to(self.device),
            empty_text=empty_text,
            text_dropout=config.text_dropout,
            image_dropout=config.image_dropout,
            sigma_density=config.sigma_density,
            shift=backbone.shift(
                len(film.denoised_given) * backbone.tokens_per(*cache.sizes[size]), config.sampling.steps
            ),
            guidance=config.guidance,
        )

    def _part(self, number: int) -> _Part:
        """A part of a step's batch, counted over all steps; in the background, where nothing waits for a device."""
        step, place = divmod(number, len(self.parts))
        if self._drawn is None or self._drawn[0] != step:
            batch, generator = self.batches.at(step)
            objective = replace(self.objectives[batch.size], empty_frame=self.cache.empty_frames[batch.size])
            self._drawn = step, batch, draw(objective, self.config.batch_size, generator)
        _, batch, drawn = self._drawn
        rows = batch.rows[self.parts[place]]
        part = _Part(
            size=batch.size, rows=rows, frames=self.cache.frames(rows),
            text=self.cache.text(rows) if self.cache.has_text else None, draw=drawn.take(self.parts[place], "cpu"),
        )  # fmt: skip
        return part.pinned() if self.device.type == "cuda" else part

    def _on_device(self, part: _Part) -> tuple[Samples, Draw]:
        """A part on the device, copied while that computes; captions that the cache lacks are encoded now."""
        text = self.cache.text(part.rows) if part.text is None else part.text
        pooled = None if text.pooled is None else self._sent(text.pooled)
        samples = Samples(self._sent(part.frames), Text(self._sent(text.tokens), pooled))
        return samples, Draw(**{name: self._sent(value) for name, value in vars(part.draw).items()})

    def _sent(self, value: Tensor) -> Tensor:
        return value.to(self.device, non_blocking=True)  # only ever to the device

    def _samples(self, rows: list[int]) -> Samples:
        return self.cache.samples(rows).to(self.device)

    def _by_size(self, rows: list[int]) -> list[tuple[int, list[int]]]:
        """Rows of each size together."""
        sizes = dict.fromkeys(self.cache.size[row] for row in rows)
        return [(size, [row for row in rows if self.cache.size[row] == size]) for size in sizes]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16")

    def _average(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        mean = self.accelerator.reduce(value, "mean")
        assert isinstance(mean, Tensor)
        return mean


def _parts(config: TrainConfig, accelerator: Accelerator, parts: int) -> list[slice]:
    """This process's parts of an effective batch, as many as are given."""
    config.require_divisible(accelerator.num_processes, parts)
    size = config.batch_size // (accelerator.num_processes * parts)
    first = accelerator.process_index * parts
    return [slice((first + k) * size, (first + k + 1) * size) for k in range(parts)]
