"""Seconds a picture: the two-frame pipeline sped up, as it is, and a plain loop of separate passes on stock blocks.

    python benchmarks/generate.py --guidance unequal
    python benchmarks/generate.py --size flux-dev --weights random --guidance unequal --steps 28

All draw from the same noise in one run, their repeats take turns, and each figure is a median. The plain loop is what
one would write first: prompt and reference encoded once, three calls of the transformer a step, Euler by hand.
"""

from __future__ import annotations

import json
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
import tyro
from flux_dev import flux_dev, twin
from PIL import Image
from torch import Tensor

from dsd.devices import default_device, inference_dtype
from dsd.errors import UserError
from dsd.generate.speed import Compile, Level, speed_up
from dsd.generate.two_frame import TwoFramePipeline
from dsd.log import quiet_libraries

SCALES = {"off": (1.0, 1.0), "equal": (2.0, 2.0), "unequal": (2.0, 1.5)}
PROMPT = "a red cat with a hat"
GUIDANCE = 3.5
WITHIN = 1e-3
DEFAULT_TOKENS = 512


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        size: "tiny" is the embedded student, "flux-dev" a model of FLUX.1-dev's shape, for a GPU.
        weights: those that ship, or random ones; FLUX.1-dev's do not ship.
        speed: the level of `dsd.generate.speed.speed_up`.
        compile: see there.
        guidance: of text and image: none, by one scale, or by two that differ.
        steps: of Euler.
        repeats: measured pictures of each way, after its first.
        pixels: height and width of the picture; 64 of the tiny model and 512 of FLUX.1-dev when left out.
    """

    size: Literal["tiny", "flux-dev"] = "tiny"
    weights: Literal["shipped", "random"] = "shipped"
    speed: Level = "lossless"
    compile: Compile = "auto"
    guidance: Literal["off", "equal", "unequal"] = "unequal"
    steps: int = 16
    repeats: int = 5
    pixels: int | None = None

    @property
    def side(self) -> int:
        """Of the picture in pixels."""
        return self.pixels or (64 if self.size == "tiny" else 512)


@dataclass
class Measured:
    """Of one way to draw; seconds, and the peak memory of the process or the GPU in GiB."""

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    picture: Tensor = field(default_factory=lambda: torch.empty(0))

    def off(self, other: Measured) -> float:
        """The largest difference of a pixel in [0, 1]."""
        return float((self.picture - other.picture).abs().max())


def main(settings: Settings) -> None:
    """Prints what was done to be fast, and a line of JSON for each way to draw."""
    quiet_libraries()
    plain = _pipeline(settings)
    fast = twin(plain)
    for sentence in speed_up(fast, settings.speed, compile=settings.compile):
        print(sentence)
    reference = Image.effect_noise((settings.side, settings.side), 80).convert("RGB")
    ways: dict[str, Callable[[], Tensor]] = {
        "sped up": lambda: _by_pipeline(fast, reference, settings),
        "pipeline": lambda: _by_pipeline(plain, reference, settings),
        "plain loop": lambda: _by_hand(plain, reference, settings),
    }
    measured = {name: Measured() for name in ways}
    for turn in range(1 + settings.repeats):
        for name, way in ways.items():
            _measure(way, measured[name], is_first=turn == 0)
    loop = measured["plain loop"]
    for name, one in measured.items():
        print(json.dumps({"way": name, **_figures(one, loop)}))
    worst = max(one.off(loop) for one in measured.values())
    if settings.speed == "lossless" and inference_dtype(default_device()) == torch.float32 and worst > WITHIN:
        raise UserError(f"pictures differ by {worst:.2g}, but lossless ones must agree within {WITHIN:g}")


def _pipeline(settings: Settings) -> TwoFramePipeline:
    device = default_device()
    if settings.size == "flux-dev":
        if settings.weights == "shipped":
            raise UserError('the weights of FLUX.1-dev do not ship; give --weights random with "--size flux-dev"')
        return flux_dev(device)
    pipeline: Any = TwoFramePipeline.from_pretrained(
        "embedded:tiny-flux", "embedded:tiny-student", dtype=inference_dtype(device)
    )
    pipeline.set_progress_bar_config(disable=True)
    if settings.weights == "random":
        generator = torch.Generator().manual_seed(0)
        for weight in pipeline.transformer.parameters():
            if weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=generator)
                weight.data.copy_(noise * weight.shape[1] ** -0.5)
    return pipeline.to(device)


def _measure(way: Callable[[], Tensor], into: Measured, *, is_first: bool) -> None:
    on_gpu = default_device() == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    start = time.perf_counter()
    into.picture = way()
    if on_gpu:
        torch.cuda.synchronize()
    spent = time.perf_counter() - start
    if is_first:
        into.first = spent
    else:
        into.seconds.append(spent)
    held = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else _resident()
    into.peak = max(into.peak, held)


def _resident() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _figures(one: Measured, loop: Measured) -> dict[str, float]:
    median = statistics.median(one.seconds)
    return {
        "seconds a picture": round(median, 4),
        "times as fast as the loop": round(statistics.median(loop.seconds) / median, 2),
        "first call, seconds": round(one.first, 3),
        "peak memory, GiB": round(one.peak, 2),
        "largest difference": one.off(loop),
    }


def _by_pipeline(pipeline: Any, reference: Image.Image, settings: Settings) -> Tensor:
    text_scale, image_scale = SCALES[settings.guidance]
    return pipeline(
        PROMPT, reference, height=settings.side, width=settings.side, num_inference_steps=settings.steps,
        text_scale=text_scale, image_scale=image_scale, guidance_scale=_embedded(pipeline),
        latents=_noise(pipeline, settings), output_type="pt",
    ).images.float().cpu()  # fmt: skip


def _embedded(pipeline: Any) -> float | None:
    return GUIDANCE if pipeline.transformer.config.guidance_embeds else None


def _noise(pipeline: Any, settings: Settings) -> Tensor:
    channels = pipeline.vae.config.latent_channels
    side = settings.side // 2 ** (len(pipeline.vae.config.block_out_channels) - 1)
    return torch.randn(1, 2, channels, side, side, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def _by_hand(pipeline: Any, reference: Image.Image, settings: Settings) -> Tensor:
    """Three passes a step on the stock blocks: with nothing, with the image, with image and text."""
    vae, transformer, device = pipeline.vae, pipeline.transformer, pipeline.device
    dtype, config = transformer.dtype, vae.config
    tokens = DEFAULT_TOKENS if pipeline.adapter is None else pipeline.adapter.max_sequence_length
    words, pooled, text_ids = pipeline.encode_prompt([PROMPT, ""], None, max_sequence_length=tokens)

    numbers = torch.frombuffer(bytearray(reference.tobytes()), dtype=torch.uint8)
    shown = numbers.view(1, settings.side, settings.side, 3).permute(0, 3, 1, 2).to(device, vae.dtype) / 127.5 - 1
    encoded = [
        (vae.encode(one).latent_dist.mode().float() - config.shift_factor) * config.scaling_factor
        for one in (shown, torch.full_like(shown, -1.0))
    ]
    condition = torch.cat(encoded, dim=-1)  # side by side
    canvas = torch.cat(list(_noise(pipeline, settings)[0]), dim=-1)[None].to(device)

    rows, columns = (side // 2 for side in canvas.shape[-2:])
    image_ids = pipeline._prepare_latent_image_ids(1, rows, columns, device, dtype)
    embedded = _embedded(pipeline)
    guidance = None if embedded is None else torch.full((1,), embedded, device=device)
    text_scale, image_scale = SCALES[settings.guidance]

    def velocity(sigma: float, prompt: int, picture: float) -> Tensor:
        packed = torch.cat([_packed(canvas), picture * _packed(condition)], dim=-1).to(dtype)
        predicted = transformer(
            hidden_states=packed, timestep=torch.full((1,), sigma, device=device, dtype=dtype), guidance=guidance,
            pooled_projections=pooled[prompt : prompt + 1], encoder_hidden_states=words[prompt : prompt + 1],
            txt_ids=text_ids.to(dtype), img_ids=image_ids, return_dict=False,
        )[0].float()  # fmt: skip
        channels = canvas.shape[1]
        predicted = predicted.view(1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return predicted.reshape(canvas.shape)

    sigmas = _sigmas(pipeline, settings.steps, rows * columns)
    for now, after in pairwise(sigmas):
        both = velocity(now, 0, 1.0)
        if settings.guidance == "off":
            direction = both
        else:
            image, nothing = velocity(now, 1, 1.0), velocity(now, 1, 0.0)
            direction = nothing + image_scale * (image - nothing) + text_scale * (both - image)
        canvas = canvas + (after - now) * direction
    drawn = canvas[..., canvas.shape[-1] // 2 :] / config.scaling_factor + config.shift_factor
    return ((vae.decode(drawn.to(vae.dtype)).sample.clamp(-1, 1) + 1) / 2).float().cpu()


def _packed(canvas: Tensor) -> Tensor:
    batch, channels, height, width = canvas.shape
    patches = canvas.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(batch, (height // 2) * (width // 2), channels * 4)


def _sigmas(pipeline: Any, steps: int, tokens: int) -> list[float]:
    """The stock scheduler's own."""
    scheduler, settings = type(pipeline.scheduler).from_config(pipeline.scheduler.config), pipeline.scheduler.config
    slope = (settings.max_shift - settings.base_shift) / (settings.max_image_seq_len - settings.base_image_seq_len)
    mu = settings.base_shift + slope * (tokens - settings.base_image_seq_len)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist(), mu=mu)
    return scheduler.sigmas.tolist()


if __name__ == "__main__":
    main(tyro.cli(Settings))
