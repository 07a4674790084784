"""The two-frame task that `dsd.train.loop` runs: batches, optimizer steps, averages, held-out loss, sample sheets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from dsd.backbones.stock import StockBackbone
from dsd.data.latents import LatentCache, Samples
from dsd.errors import UserError
from dsd.files import make_folder, write_atomic
from dsd.frames import Film
from dsd.images import encode_png
from dsd.log import console
from dsd.train.adapter import Adapter
from dsd.train.config import TrainConfig
from dsd.train.ema import Ema
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.metrics import GRADIENT_NORM
from dsd.train.optim import MuonAndAdamW
from dsd.train.samples import sample_sheet
from dsd.train.step import Objective, draw, losses

_HELD_OUT_AT_ONCE = 32
_SHOWN = 8


@dataclass(frozen=True)
class Split:
    """Rows of a cache: those to train on, those held back, and those that are drawn (held back, where any are)."""

    training: list[int]
    held_out: list[int]
    shown: list[int]


def split_by_grid(grids: list[str], held_out: int, *, says: bool = True) -> Split:
    """Holds back all pairs of the last grids, so that no held-out individual is trained on.

    Args:
        grids: of the rows.
        held_out: how many grids to hold back; fewer are, with a warning, where one at least would not be left.
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
            soft_wrap=True,
            markup=False,
        )
    return Split(training, held, [grids.index(grid) for grid in (last or names)[:_SHOWN]])


def optimizer_of(config: TrainConfig, modules: dict[str, nn.Module], not_for_muon: tuple[str, ...]) -> MuonAndAdamW:
    """The optimizer of a config.

    Args:
        config: names it, and its rates.
        modules: whose trainable parameters it trains, by name.
        not_for_muon: parts of names of parameters that are no matrices to Muon, though they have two dimensions.
    """
    return MuonAndAdamW(
        modules,
        adamw_names=("",) if config.optimizer == "adamw" else not_for_muon,
        muon_lr=config.muon_learning_rate,
        adamw_lr=config.learning_rate,
        weight_decay=config.weight_decay,
        adamw_weight_decay=config.weight_decay if config.optimizer == "adamw" else 1e-4,
        betas=(0.9, 0.999) if config.optimizer == "adamw" else (0.9, 0.95),
    )


class TwoFrameTask:
    """Two-frame training of a widened backbone on a cache.

    Args:
        config: settings.
        backbone: widened, with its adapter attached.
        adapter: what is trained of it.
        cache: latents and texts of the pairs.
        accelerator: device and processes.
        folder: of the run; gets ``samples/``.
    """

    def __init__(
        self,
        config: TrainConfig,
        backbone: StockBackbone,
        adapter: Adapter,
        cache: LatentCache,
        accelerator: Accelerator,
        folder: Path,
    ) -> None:
        self.config, self.backbone, self.adapter, self.cache = config, backbone, adapter, cache
        self.accelerator, self.device, self.folder = accelerator, accelerator.device, folder
        self.rows = split_by_grid(cache.grids, config.held_out, says=accelerator.is_main_process)
        self.parts = _parts(config, accelerator)
        self.optimizer = optimizer_of(config, {"transformer": adapter.transformer}, backbone.layers.not_matrices)
        self.ema = Ema(adapter.parameters, config.ema_decay)
        _, _, height, width = cache.empty_frame.shape
        film, pixels = Film.of(cache.references, cache.targets, config.reference_weight), backbone.pixels_per_latent
        tokens = film.frames * backbone.tokens_per(height * pixels, width * pixels)
        self.objective = Objective(
            film=film,
            empty_frame=cache.empty_frame.float().to(self.device),
            empty_text=cache.empty_text.to(self.device),
            text_dropout=config.text_dropout,
            image_dropout=config.image_dropout,
            sigma_density=config.sigma_density,
            shift=backbone.shift(tokens, config.sampling.steps),
            guidance=config.guidance,
        )

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step on one effective batch, whose randomness does not depend on how it is divided."""
        config, generator = self.config, step_generator(self.config.seed, step)
        picks = torch.randint(len(self.rows.training), (config.batch_size,), generator=generator).tolist()
        drawn = draw(self.objective, config.batch_size, generator)
        sums: dict[str, Tensor] = {}
        for part in self.parts:
            samples = self._samples([self.rows.training[pick] for pick in picks[part]])
            with self._autocast():
                found = losses(self.backbone, self.objective, samples, drawn.take(part, self.device))
            (found["loss"] / len(self.parts)).backward()
            sums = {
                name: sums.get(name, torch.zeros_like(value)) + value.detach() / len(self.parts)
                for name, value in found.items()
            }
        self._average_gradients()
        sums = {name: self._average(value) for name, value in sums.items()}
        factor = learning_rate_factor(step, config.steps, warmup=config.warmup, decay_from=config.decay_from)
        norm = self.optimizer.update(factor)
        self.ema.update(step)
        return {**sums, "learning_rate_factor": factor, GRADIENT_NORM: norm}

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights, their averages and the optimizer's state; the frozen base is known by its revision."""
        return self.ema.tensors() | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        self.ema.restore(tensors)
        self.optimizer.restore(tensors)

    def evaluate(self, step: int) -> dict[str, float]:
        """The averaged weights on the held-out pairs: their loss at fixed noise, and a sample sheet."""
        with self.ema.in_place(), self._autocast():
            figures = self._held_out_losses()
            sheet = sample_sheet(
                self.backbone,
                self.objective,
                self._samples(self.rows.shown),
                [self.cache.captions[row] for row in self.rows.shown],
                self.config.sampling,
                self.config.seed,
            )
        write_atomic(make_folder(self.folder / "samples") / f"step-{step:07d}.png", encode_png(sheet))
        return figures

    @torch.no_grad()
    def _held_out_losses(self) -> dict[str, float]:
        objective = replace(self.objective, text_dropout=0.0, image_dropout=0.0)
        generator, found = step_generator(self.config.seed + 1, 0), []
        rows = self.rows.held_out[: 2 * _HELD_OUT_AT_ONCE]
        for start in range(0, len(rows), _HELD_OUT_AT_ONCE):
            part = rows[start : start + _HELD_OUT_AT_ONCE]
            drawn = draw(objective, len(part), generator).take(slice(None), self.device)
            loss = losses(self.backbone, objective, self._samples(part), drawn)
            found.append(torch.stack([loss["loss"], loss["loss_target"]]).cpu() * len(part))
        if not found:
            return {}
        loss, loss_target = (torch.stack(found).sum(0) / len(rows)).tolist()
        return {"held_out_loss": loss, "held_out_loss_target": loss_target}

    def _samples(self, rows: list[int]) -> Samples:
        return self.cache.samples(rows).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16")

    def _average_gradients(self) -> None:
        for parameter in self.adapter.parameters.values():
            if parameter.grad is not None:
                parameter.grad = self._average(parameter.grad)

    def _average(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        mean = self.accelerator.reduce(value, "mean")
        assert isinstance(mean, Tensor)
        return mean


def _parts(config: TrainConfig, accelerator: Accelerator) -> list[slice]:
    """This process's parts of an effective batch."""
    count = accelerator.num_processes * config.gradient_accumulation
    size, rest = divmod(config.batch_size, count)
    if rest:
        raise UserError(
            f"batch_size {config.batch_size} does not divide among {accelerator.num_processes} processes x "
            f"{config.gradient_accumulation} gradient_accumulation; choose a multiple of {count}"
        )
    first = accelerator.process_index * config.gradient_accumulation
    return [slice((first + k) * size, (first + k + 1) * size) for k in range(config.gradient_accumulation)]
