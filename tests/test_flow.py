"""Rectified flow against what can be worked out by hand."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dsd import flow
from dsd.errors import UserError


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian_model(mean: float, deviation: float) -> flow.Model:
    """The exact velocity field of data from one normal distribution: E[noise - latents | noisy latents]."""

    def model(latents: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.view(-1, 1, 1, 1).double()
        variance = ((1 - sigma) * deviation) ** 2 + sigma**2
        slope = (sigma - (1 - sigma) * deviation**2) / variance
        return -mean + slope * (latents - (1 - sigma) * mean)

    return model


def sampling_error(sampler, steps: int) -> float:
    """How far the sampler ends from where the flow takes the noise: ``mean + deviation * noise``."""
    noise = random(2, 3, 4, 4)
    drawn = sampler(gaussian_model(0.7, 0.4), noise, flow.schedule(steps))
    return (drawn - (0.7 + 0.4 * noise)).abs().max().item()


def test_the_path_runs_from_data_to_noise() -> None:
    latents, noise = random(2, 1, 2, 2, seed=1), random(2, 1, 2, 2, seed=2)
    assert torch.equal(flow.noisy_latents(latents, noise, torch.zeros(2)), latents)
    assert torch.equal(flow.noisy_latents(latents, noise, torch.ones(2)), noise)


def test_the_velocity_is_the_path_s_derivative_and_one_step_undoes_it() -> None:
    latents, noise, sigma = random(2, 1, 2, 2, seed=1), random(2, 1, 2, 2, seed=2), torch.tensor([0.3, 0.8])
    noisy = flow.noisy_latents(latents, noise, sigma)
    back = noisy - sigma.view(-1, 1, 1, 1) * flow.velocity(latents, noise)
    assert torch.allclose(back, latents)


def test_shifting_keeps_the_ends_and_composes() -> None:
    sigmas = torch.linspace(0, 1, 11)
    assert torch.equal(flow.shift_sigmas(sigmas, 1.0), sigmas)
    shifted = flow.shift_sigmas(sigmas, 3.0)
    assert (shifted[0], shifted[-1]) == (0, 1)
    assert (shifted[1:-1] > sigmas[1:-1]).all()
    assert torch.allclose(flow.shift_sigmas(flow.shift_sigmas(sigmas, 2.0), 1.5), shifted)


def test_the_schedule_falls_from_noise_to_data() -> None:
    sigmas = flow.schedule(7, 2.5)
    assert len(sigmas) == 8
    assert (sigmas[0], sigmas[-1]) == (1, 0)
    assert (sigmas.diff() < 0).all()
    with pytest.raises(UserError, match="at least 1 step"):
        flow.schedule(0)


def test_the_resolution_shift_is_log_linear_in_tokens() -> None:
    shift = flow.ResolutionShift()
    assert shift.shift(256) == pytest.approx(math.exp(0.5))
    assert shift.shift(4096) == pytest.approx(math.exp(1.15))
    assert flow.ResolutionShift.constant(3.0).shift(17) == pytest.approx(3.0)
    assert flow.ResolutionShift.constant(1.0).shift(17) == 1.0


def test_schedulers_that_bend_sigmas_otherwise_are_refused() -> None:
    for config in ({"shift_terminal": 0.1}, {"use_karras_sigmas": True}):
        with pytest.raises(UserError, match="not supported"):
            flow.ResolutionShift.from_scheduler(config)
    with pytest.raises(UserError, match="time_shift_type"):
        flow.ResolutionShift.from_scheduler({"use_dynamic_shifting": True, "time_shift_type": "linear"})


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_training_and_sampling_shift_alike(shift: float) -> None:
    """Sigmas of the uniform density have the sampling schedule as their quantiles."""
    drawn = flow.sample_sigmas(20_000, "uniform", shift, torch.Generator().manual_seed(0))
    quantiles = drawn.quantile(torch.linspace(1, 0, 9))
    assert torch.allclose(quantiles, flow.schedule(8, shift), atol=0.02)


def test_the_logit_normal_density_prefers_the_middle_and_the_generator_decides() -> None:
    uniform, normal = (
        flow.sample_sigmas(20_000, density, 1.0, torch.Generator().manual_seed(0))
        for density in ("uniform", "logit-normal")
    )
    assert normal.mean() == pytest.approx(0.5, abs=0.01)
    assert normal.std() < uniform.std()
    again = flow.sample_sigmas(20_000, "logit-normal", 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(normal, again)


def test_matching_errors_are_those_of_the_velocity_on_the_path() -> None:
    latents, noise, wrong = (random(3, 2, 1, 2, 2, seed=seed) for seed in range(3))
    sigma = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    seen: list[Tensor] = []

    def model(noisy: Tensor, at: Tensor) -> Tensor:
        seen.extend([noisy, at])
        return noise - latents + wrong

    errors = flow.matching_errors(model, latents, noise, sigma)
    assert torch.allclose(errors, wrong.float().square(), atol=1e-5)
    assert torch.equal(seen[0][0], latents[0]) and torch.equal(seen[0][2], noise[2]) and torch.equal(seen[1], sigma)


def test_one_step_is_exact_on_straight_paths() -> None:
    noise, target = random(1, 1, 2, 2, seed=1), random(1, 1, 2, 2, seed=2)
    for sampler in (flow.euler, flow.heun):
        drawn = sampler(lambda latents, sigma: flow.velocity(target, noise), noise, flow.schedule(1))
        assert torch.allclose(drawn, target)


def test_samplers_reach_the_analytic_gaussian_at_their_order() -> None:
    euler = [sampling_error(flow.euler, steps) for steps in (32, 64, 128)]
    heun = [sampling_error(flow.heun, steps) for steps in (32, 64, 128)]
    for coarse, fine in itertools.pairwise(euler):
        assert 1.7 < coarse / fine < 2.4
    for coarse, fine in itertools.pairwise(heun):
        assert coarse / fine > 3.4
    assert heun[0] < euler[0]
    assert euler[-1] < 0.02


def test_callbacks_see_every_step() -> None:
    seen: list[int] = []
    flow.euler(
        gaussian_model(0, 1), random(1, 1, 2, 2), flow.schedule(3), callback=lambda step, latents: seen.append(step)
    )
    assert seen == [0, 1, 2]
