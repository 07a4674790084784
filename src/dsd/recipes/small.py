"""Recipes for one small card: a LoRA of a published model, on a few thousand pairs, in a day or two.

What the paper leaves to a cluster is made smaller here: the rank, the batch (worked through one pair at a time), the
steps, and the bits of the frozen base, as far as the card asks for it. `dsd plan NAME` counts what is needed.
"""

from __future__ import annotations

from dataclasses import replace

from dsd.curate.config import CurateConfig
from dsd.recipes.published import flux_dev, flux_schnell, sd35_medium
from dsd.recipes.recipe import Recipe
from dsd.train.config import BasePrecision, TrainConfig


def flux_dev_lora_24gb() -> Recipe:
    """FLUX.1-dev in 8 bits on a card of 24 GB."""
    return _on_one_card(
        flux_dev(), "flux-dev-lora-24gb", "a LoRA of FLUX.1-dev on one card of 24 GB, its base in 8 bits",
        card=24, tflops=165.0, rank=128, base_precision="8bit",
    )  # fmt: skip


def flux_schnell_lora() -> Recipe:
    """FLUX.1-schnell in 4 bits on a card of 16 GB."""
    return _on_one_card(
        flux_schnell(), "flux-schnell-lora", "a LoRA of FLUX.1-schnell on one card of 16 GB, its base in 4 bits",
        card=16, tflops=97.0, rank=64, base_precision="4bit",
    )  # fmt: skip


def sd35_medium_lora() -> Recipe:
    """Stable Diffusion 3.5 medium, which a card of 16 GB holds as it is."""
    return _on_one_card(
        sd35_medium(), "sd35-medium-lora", "a LoRA of Stable Diffusion 3.5 medium on one card of 16 GB",
        card=16, tflops=97.0, rank=64, base_precision="full",
    )  # fmt: skip


def on_a_small_card(train: TrainConfig, *, rank: int, base_precision: BasePrecision) -> TrainConfig:
    """A training as a small card runs it: 4 000 steps of 16 pairs, one at a time, blocks computed again.

    Args:
        train: on a large one.
        rank: of the LoRA.
        base_precision: of the frozen base.
    """
    return replace(
        train, rank=rank, base_precision=base_precision, steps=4000, batch_size=16, gradient_accumulation=16,
        gradient_checkpointing="full", warmup=100, decay_from=0.7, held_out=16, sample_every=250, checkpoint_every=250,
    )  # fmt: skip


def _on_one_card(
    large: Recipe, name: str, summary: str, *, card: float, tflops: float, rank: int, base_precision: BasePrecision
) -> Recipe:
    """A recipe with its training on one card of so many GB and 10^12 bfloat16 operations a second, on fewer pairs."""
    return replace(
        large,
        summary=summary,
        curate=_fewer(large.curate),
        train=on_a_small_card(large.train, rank=rank, base_precision=base_precision),
        adapter=f"runs/{name}/train/adapter",
        tflops=tflops,
        card=card,
    )


def _fewer(curate: CurateConfig) -> CurateConfig:
    """2 000 captions, of which about 6 000 pairs are kept; one sheet at a time."""
    return replace(curate, units=20, unit_size=100, teacher_batch=1)
