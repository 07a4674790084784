"""What methods share that keep the text-to-image model frozen and train something beside it that sees a picture.

The training is the model's own flow matching on single panels: the target panel under its caption, with text and
picture dropped for guidance, on the same pairs, latents and budget as the two-frame student. Sampling and training ask
one and the same `Conditioner.velocity`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from dsd import flow, runs
from dsd.backbones.protocol import Text
from dsd.backbones.stock import StockBackbone
from dsd.baselines.protocol import Drawing, Request
from dsd.baselines.setting import Setting
from dsd.data.latents import LatentCache, fingerprint
from dsd.data.pairs import ids_of
from dsd.data.records import Example
from dsd.files import atomic_folder, require_replaceable
from dsd.frames import Film
from dsd.generate.draw import Rows
from dsd.generate.draw import draw as draw_latents
from dsd.images import to_pil
from dsd.models import revision_or_name
from dsd.train import checkpoint, environment, loop
from dsd.train.config import TrainConfig
from dsd.train.ema import Ema
from dsd.train.finished import require_no_more_steps
from dsd.train.loop import learning_rate_factor, step_generator
from dsd.train.metrics import GRADIENT_NORM
from dsd.train.step import Objective, draw, text_or_empty
from dsd.train.task import optimizer_of, split_by_grid
from dsd.train.trainer import latent_cache
from dsd.weights import require_finite

Look = Mapping[str, Tensor]
"""What frozen models see in a batch of pictures, by name; the batch comes first in every tensor."""
_ALONE = Film.of(0, 1)
_HELD_OUT_AT_ONCE = 32
_BLOCK = 32
_KEPT_AT_MOST = 1 << 16  # pairs whose looks are kept in memory: some hundred MB of the embedded models' patches


class Conditioner(Protocol):
    """What a method puts beside a frozen text-to-image model."""

    @property
    def trained(self) -> Mapping[str, nn.Module]:
        """What is trained, by name."""
        ...

    @property
    def not_matrices(self) -> tuple[str, ...]:
        """Parts of names of trained parameters that are no matrices to Muon, though they have two dimensions."""
        ...

    def look(self, pictures: Sequence[Image.Image]) -> Look:
        """What the frozen models see in pictures."""
        ...

    def velocity(
        self,
        latents: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        text: Text,
        look: Look,
        keep: Bool[Tensor, " b"],
        guidance: float | None,
    ) -> Float[Tensor, "b c h w"]:
        """One evaluation; see `dsd.backbones.stock.StockBackbone.velocity`.

        Args:
            latents: noisy latents of one frame.
            sigma: noise level of each.
            text: one prompt each.
            look: at the pictures.
            keep: whether each sees its picture; where not, it is as if there were none.
            guidance: embedded guidance.
        """
        ...

    def save(self, folder: Path) -> None:
        """Writes what is trained."""
        ...


@dataclass(frozen=True, kw_only=True)
class Conditioned:
    """Draws with a frozen model and a conditioner; nothing is fitted to a subject.

    Attributes:
        backbone: the text-to-image model.
        conditioner: with its weights.
        drawing: how.
        fingerprint: see `SubjectMethod`.
        name: the row's name.
        subjects_at_once: see `SubjectMethod`.
    """

    backbone: StockBackbone
    conditioner: Conditioner
    drawing: Drawing
    fingerprint: str
    name: str
    subjects_at_once: int = 16

    def prepare(self, requests: Sequence[Request]) -> None:
        """Needs nothing: zero-shot."""

    def generate(self, requests: Sequence[Request]) -> list[Image.Image]:
        """One picture a request; a picture depends on its own seed alone."""
        pictures: list[Image.Image] = []
        for start in range(0, len(requests), self.drawing.batch):
            pictures += self._drawn(requests[start : start + self.drawing.batch])
        return pictures

    @torch.inference_mode()
    def _drawn(self, requests: Sequence[Request]) -> list[Image.Image]:
        drawing, backbone, count = self.drawing, self.backbone, len(requests)
        encoded = backbone.encode_text([*(r.prompt for r in requests), ""], drawing.max_sequence_length)
        look = self.conditioner.look([request.reference for request in requests])

        def velocity(rows: Rows) -> Tensor:
            looks = {name: value[list(rows.of)] for name, value in look.items()}
            guidance = drawing.sampling.guidance
            return self.conditioner.velocity(rows.latents, rows.sigma, rows.text, looks, rows.keep, guidance)

        height, width = (side // backbone.pixels_per_latent for side in drawing.size)
        generators = [torch.Generator().manual_seed(request.seed) for request in requests]
        noise = randn_tensor((count, backbone.latent_channels, height, width), generators, backbone.device)
        shift = backbone.shift(backbone.tokens_per(*drawing.size), drawing.sampling.steps)
        text, no_text = encoded.take(slice(-1)), encoded.take(slice(-1, None))
        return to_pil(backbone.decode(draw_latents(velocity, noise, text, no_text, drawing.sampling, shift)))


class ConditionedTask:
    """Trains a conditioner beside a frozen model; see `dsd.train.loop.Task`.

    Args:
        config: the budget; what concerns the student's adapter or its second frame has no meaning here.
        backbone: frozen.
        conditioner: what is trained.
        cache: latents of the pairs' targets and their encoded captions.
        pairs: the pairs themselves, in the cache's order.
        sees: which picture of a pair the conditioner is shown: the target itself, as methods that are trained to
            reconstruct do, or the reference.
    """

    def __init__(
        self,
        config: TrainConfig,
        backbone: StockBackbone,
        conditioner: Conditioner,
        cache: LatentCache,
        pairs: Sequence[Example],
        sees: Literal["reference", "target"],
    ) -> None:
        self.config, self.backbone, self.conditioner = config, backbone, conditioner
        self.cache, self.pairs, self.sees = cache, pairs, sees
        self.rows = split_by_grid(cache.grids, config.held_out)
        cache.encode_with(backbone, config.max_sequence_length)
        self._seen: dict[int, Look] = {}  # by block
        modules = dict(conditioner.trained)
        backbone.transformer.requires_grad_(False)
        for module in modules.values():
            module.float().requires_grad_(True)
        parameters = {f"{m}.{n}": p for m, module in modules.items() for n, p in module.named_parameters()}
        self.optimizer = optimizer_of(config, modules, conditioner.not_matrices)
        self.ema = Ema(parameters, config.ema_decay)
        _, _, height, width = cache.empty_frame.shape
        pixels = backbone.pixels_per_latent
        self.objective = Objective(
            film=_ALONE,
            empty_frame=cache.empty_frame.float().to(backbone.device),
            empty_text=cache.empty_text.to(backbone.device),
            text_dropout=config.text_dropout,
            image_dropout=config.image_dropout,
            sigma_density=config.sigma_density,
            shift=backbone.shift(backbone.tokens_per(height * pixels, width * pixels), config.sampling.steps),
            guidance=config.guidance,
        )

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """One optimizer step on one batch of pairs."""
        config, generator = self.config, step_generator(self.config.seed, step)
        picks = torch.randint(len(self.rows.training), (config.batch_size,), generator=generator).tolist()
        loss = self._loss(self.objective, [self.rows.training[pick] for pick in picks], generator)
        factor = learning_rate_factor(step, config.steps, warmup=config.warmup, decay_from=config.decay_from)
        norm = self.optimizer.step(loss, factor)
        self.ema.update(step)
        return {"loss": loss.detach(), "learning_rate_factor": factor, GRADIENT_NORM: norm}

    def tensors(self) -> dict[str, Tensor]:
        """Trained weights, their averages and the optimizer's state."""
        return self.ema.tensors() | self.optimizer.tensors()

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a checkpoint."""
        self.ema.restore(tensors)
        self.optimizer.restore(tensors)

    @torch.no_grad()
    def evaluate(self, step: int) -> dict[str, float]:
        """The averaged weights' loss on held-out pairs, at fixed noise."""
        objective = replace(self.objective, text_dropout=0.0, image_dropout=0.0)
        rows = self.rows.held_out[: 2 * _HELD_OUT_AT_ONCE]
        generator, losses = step_generator(self.config.seed + 1, 0), []
        with self.ema.in_place():
            for start in range(0, len(rows), _HELD_OUT_AT_ONCE):
                part = rows[start : start + _HELD_OUT_AT_ONCE]
                losses.append(self._loss(objective, part, generator) * len(part))
        if not losses:
            return {}
        return {"held_out_loss": float(torch.stack(losses).sum()) / len(rows)}

    def _loss(self, objective: Objective, rows: Sequence[int], generator: torch.Generator) -> Tensor:
        device = self.backbone.device
        drawn = draw(objective, len(rows), generator).take(slice(None), device)
        noise = drawn.noise[:, 0]
        samples = self.cache.samples(rows)
        latents = samples.frames[:, -1].to(device)
        text = text_or_empty(samples.text.to(device), objective.empty_text, drawn.keep_text)
        look = self._look(rows)

        def model(noisy: Tensor, sigma: Tensor) -> Tensor:
            return self.conditioner.velocity(noisy, sigma, text, look, drawn.keep_image, objective.guidance)

        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
            return flow.matching_errors(model, latents, noise, drawn.sigma).mean()

    def _shown(self, pair: Example) -> Image.Image:
        return pair.references[0] if self.sees == "reference" else pair.targets[0]

    @torch.no_grad()
    def _look(self, rows: Sequence[int]) -> Look:
        """At the pictures of some rows.

        Of few pairs all looks are kept, taken in blocks of neighbouring rows, so that no bit of them depends on when a
        run was stopped.
        """
        if len(self.pairs) > _KEPT_AT_MOST:
            return self.conditioner.look([self._shown(self.pairs[row]) for row in rows])
        for block in dict.fromkeys(row // _BLOCK for row in rows):
            if block not in self._seen:
                pairs = self.pairs[block * _BLOCK : (block + 1) * _BLOCK]
                look = self.conditioner.look([self._shown(pair) for pair in pairs])
                self._seen[block] = {name: value.cpu() for name, value in look.items()}  # a GPU has no room for all
        looks = [(self._seen[row // _BLOCK], row % _BLOCK) for row in rows]
        found = {name: torch.stack([look[name][place] for look, place in looks]) for name in looks[0][0]}
        return {name: value.to(self.backbone.device) for name, value in found.items()}


def conditioned(
    setting: Setting,
    backbone: StockBackbone,
    new: Callable[[], Conditioner],
    load: Callable[[str], Conditioner],
    *,
    sees: Literal["reference", "target"],
    models: Mapping[str, str] | None = None,
) -> Conditioned:
    """The method of a row: with the weights that it names, or with those that it trains first.

    Args:
        setting: the row.
        backbone: its base model.
        new: makes an untrained conditioner.
        load: reads a trained one from a folder or a hub id.
        sees: see `ConditionedTask`.
        models: names of the frozen models that it sees with beside the base, by what they are to it.

    Raises:
        UserError: its weights are no finite numbers, or see `_trained`.
    """
    revisions = {what: revision_or_name(name) for what, name in (models or {}).items()}
    weights = setting.weights or str(_trained(setting, backbone, new, sees, revisions))
    made_of, conditioner = (weights, setting.base), load(weights)
    for name, module in conditioner.trained.items():
        require_finite(module, f"{weights}: {name}")
    return Conditioned(
        backbone=backbone,
        conditioner=conditioner,
        drawing=setting.drawing,
        fingerprint="-".join([*map(revision_or_name, made_of), *revisions.values(), setting.drawing.with_picture]),
        name=setting.name,
    )


@loop.flushed_denormals()
def _trained(
    setting: Setting,
    backbone: StockBackbone,
    new: Callable[[], Conditioner],
    sees: Literal["reference", "target"],
    models: Mapping[str, str],
) -> Path:
    """Trains a conditioner, or goes on where an earlier start was stopped, and returns the folder of its weights.

    Raises:
        UserError: its folder holds another training, or one of other models or pairs.
    """
    training = setting.training()
    config, run = training.budget, training.run
    finished, pairs = run / "weights", fingerprint(ids_of(training.pairs))
    sources = {"base": revision_or_name(setting.base), **models, "pairs": pairs, "picture": sees}
    if runs.begun(run, config, "a training", sources=sources):
        done = checkpoint.newest(run / "checkpoints")
        require_no_more_steps(run, done, config)
        if finished.exists() and done in (0, config.steps):
            return finished
        shutil.rmtree(finished, ignore_errors=True)  # of fewer steps
    require_replaceable(finished)  # before anything is trained
    cache = latent_cache(config, training.pairs, training.latents, backbone.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        conditioner = new()
    task = ConditionedTask(config, backbone, conditioner, cache, training.pairs, sees)
    runs.claim(run, config, sources, "a training")
    environment.record(run / "environment.json")
    loop.run(
        task,
        folder=run,
        steps=config.steps,
        checkpoint_every=config.checkpoint_every,
        evaluate_every=config.sample_every,
        description=f"training {setting.name}",
        of=sources | runs.deciding(config, "train"),
    )
    with task.ema.in_place(), atomic_folder(finished) as temporary:
        conditioner.save(temporary)
    return finished
