"""What one training step learns from: both frames by their weights, with and without text, with and without image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from training_parts import shake, small_config, task_in

from dsd import flow
from dsd.data.latents import Samples
from dsd.frames import Film
from dsd.train.config import TrainConfig
from dsd.train.loop import step_generator
from dsd.train.step import Draw, draw, losses
from dsd.train.task import TwoFrameTask


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> TwoFrameTask:
    """A task whose weights have moved, so that text and condition act."""
    task = task_in(tmp_path_factory.mktemp("task"), small_config(rank=64))
    shake(task)
    return task


@pytest.fixture(scope="module")
def samples(task: TwoFrameTask) -> Samples:
    return task.cache.samples([0, 3, 5, 8])


@pytest.fixture
def drawn(task: TwoFrameTask) -> Draw:
    return draw(replace(task.objective, text_dropout=0.0, image_dropout=0.0), 4, step_generator(0, 0))


def loss(task: TwoFrameTask, samples: Samples, drawn: Draw, **changes: object) -> float:
    objective = replace(task.objective, **changes)  # pyright: ignore[reportArgumentType]
    with torch.no_grad():
        return float(losses(task.backbone, objective, samples, drawn)["loss"])


def test_frame_weights_decide_what_is_learned(task: TwoFrameTask, samples: Samples, drawn: Draw) -> None:
    with torch.no_grad():
        target = float(losses(task.backbone, task.objective, samples, drawn)["loss_target"])
    only_target = loss(task, samples, drawn, film=Film.two_frame(0.0))
    both = loss(task, samples, drawn, film=Film.two_frame(1.0))
    between = loss(task, samples, drawn, film=Film.two_frame(0.3))
    assert only_target == pytest.approx(target, rel=1e-5)
    assert both != pytest.approx(only_target, rel=1e-3)
    reference = 2 * both - target
    assert between == pytest.approx((0.3 * reference + target) / 1.3, rel=1e-4)


def test_text_dropout_shows_the_empty_text(task: TwoFrameTask, samples: Samples, drawn: Draw) -> None:
    none = torch.zeros(4, dtype=torch.bool)
    empty = replace(samples, text=task.objective.empty_text.take([0] * 4))
    assert loss(task, samples, replace(drawn, keep_text=none)) == loss(task, empty, drawn)
    assert loss(task, samples, replace(drawn, keep_text=none)) != loss(task, samples, drawn)


def test_image_dropout_shows_no_reference(task: TwoFrameTask, samples: Samples, drawn: Draw) -> None:
    dropped = loss(task, samples, replace(drawn, keep_image=torch.zeros(4, dtype=torch.bool)))
    latents = samples.frames
    with torch.no_grad():
        errors = flow.matching_errors(
            lambda noisy, sigma: task.backbone.velocity(noisy, sigma, samples.text, condition=None),
            latents, drawn.noise, drawn.sigma,
        )  # fmt: skip
    wanted = (task.objective.film.loss_weights() * errors).mean()
    assert dropped == pytest.approx(float(wanted), rel=1e-5)
    assert dropped != pytest.approx(loss(task, samples, drawn), rel=1e-4)


def test_dropouts_are_drawn_for_each_sample_alone(task: TwoFrameTask) -> None:
    objective = replace(task.objective, text_dropout=0.25, image_dropout=0.5)
    drawn = draw(objective, 2000, torch.Generator().manual_seed(0))
    text, image = ~drawn.keep_text, ~drawn.keep_image
    assert text.float().mean() == pytest.approx(0.25, abs=0.03)
    assert image.float().mean() == pytest.approx(0.5, abs=0.03)
    assert (text & image).float().mean() == pytest.approx(0.125, abs=0.03)


def test_the_same_generator_draws_the_same_batch(task: TwoFrameTask) -> None:
    first, second = (vars(draw(task.objective, 4, step_generator(1, 7))) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["noise"], draw(task.objective, 4, step_generator(1, 8)).noise)


def test_training_shifts_sigmas_as_sampling_does(task: TwoFrameTask) -> None:
    assert task.objective.shift == task.backbone.shift(2 * task.backbone.tokens_per(32, 32), task.config.sampling.steps)


def test_config_offers_the_densities_that_flow_has() -> None:
    assert get_args(get_type_hints(TrainConfig)["sigma_density"]) == get_args(flow.SigmaDensity)


def test_gradient_reaches_the_widened_half_of_the_patch_embedding(tmp_path: Path) -> None:
    task = task_in(tmp_path, small_config())
    embedding = task.adapter.parameters["x_embedder.weight"]
    half = embedding.shape[1] // 2
    assert not embedding[:, half:].any()
    task.train_step(0)
    assert embedding[:, half:].abs().min() > 0


def test_a_batch_in_parts_is_the_batch_at_once(tmp_path: Path) -> None:
    whole, parts = (task_in(tmp_path, small_config(gradient_accumulation=n, optimizer="adamw")) for n in (1, 4))
    first, second = whole.train_step(0), parts.train_step(0)
    torch.testing.assert_close(first["loss"], second["loss"])
    for name, value in whole.adapter.parameters.items():
        torch.testing.assert_close(parts.adapter.parameters[name], value, atol=2e-5, rtol=1e-4)
