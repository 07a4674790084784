"""The embedded models on a laptop: the tiny twins of the other recipes."""

from __future__ import annotations

from dataclasses import replace

from dsd.baselines.protocol import Drawing
from dsd.curate.config import CurateConfig
from dsd.curate.funnel import Funnel
from dsd.evaluate.config import EvaluateConfig
from dsd.recipes.recipe import Recipe
from dsd.recipes.small import on_a_small_card
from dsd.sampling import Sampling
from dsd.train.config import BasePrecision, TrainConfig

SAMPLING = Sampling(steps=16)
"""Sixteen steps are as good as more here, and half as dear as 32."""
TEACHER_GUIDANCE = 2.5
"""True guidance at which the text-only tiny-flux draws single panels best."""
DRAWING = Drawing(size=(64, 64), max_sequence_length=16, sampling=SAMPLING, true_guidance=TEACHER_GUIDANCE)
"""How single panels are drawn, by students and by the teacher."""


def tiny() -> Recipe:
    """Returns the recipe that runs on two CPU cores without a download."""
    return Recipe(
        summary="the embedded models on a laptop, in minutes",
        curate=CurateConfig(
            captions="captions.parquet",
            units=12,
            unit_size=16,
            chat="embedded:tiny-vlm",
            judge="embedded:tiny-vlm",
            templates="compact",
            chat_batch=64,
            teacher="embedded:tiny-flux",
            teacher_batch=8,
            panel_size=64,
            steps=16,
            true_guidance=2.0,
            sheet_text_tokens=48,
        ),
        train=TrainConfig(
            base="embedded:tiny-flux",
            rank=128,
            lora_targets="all-linear",
            steps=480,
            batch_size=32,
            optimizer="muon",
            learning_rate=1e-3,
            warmup=20,
            decay_from=0.4,
            ema_decay=0.99,
            max_sequence_length=16,
            held_out=4,
            sample_every=160,
            identity="embedded:tiny-dino",
            agreement="embedded:tiny-clip",
            sampling=SAMPLING,
            checkpoint_every=160,
        ),
        evaluate=EvaluateConfig(
            identity="embedded:tiny-dino",
            agreement="embedded:tiny-clip",
            likeness=("dino_i=embedded:tiny-dino",),
            vision="embedded:tiny-vlm",
            captioner="embedded:tiny-vlm",
            teacher_guidance=TEACHER_GUIDANCE,
        ),
        adapter="embedded:tiny-student",
        tflops=0.1,
        funnel=Funnel(
            captions=192,
            grid_prompts=191,
            prompts_failed={"not in the schema": 1},
            sheets=187,
            sheets_refused={"no edge between panels": 4},
            candidates=1122,
            kept=918,
            rejected={"not the same individual": 123},
            failed={"no verdict": 81},
            pairs=1836,
        ),
    )


def tiny_lora_24gb() -> Recipe:
    """The twin of the recipe for a card of 24 GB: a base in 8 bits."""
    return _on_a_small_card("tiny-lora-24gb", "a base in 8 bits", rank=64, base_precision="8bit")


def tiny_schnell_lora() -> Recipe:
    """The twin of the recipe for a model of few steps on a card of 16 GB: a base in 4 bits."""
    return _on_a_small_card("tiny-schnell-lora", "a base in 4 bits", rank=32, base_precision="4bit")


def tiny_medium_lora() -> Recipe:
    """The twin of the recipe for a smaller model on a card of 16 GB, which holds it as it is."""
    return _on_a_small_card("tiny-medium-lora", "the base as it is", rank=32, base_precision="full")


def _on_a_small_card(name: str, what: str, *, rank: int, base_precision: BasePrecision) -> Recipe:
    """The embedded models trained as on a small card, in as many steps as on a laptop, at the rate that suits them."""
    large = tiny()
    train = on_a_small_card(large.train, rank=rank, base_precision=base_precision)
    return replace(
        large,
        summary=f"the embedded models, trained as on a small card: {what}",
        train=replace(
            train, optimizer="adamw", lora_targets="attention", steps=large.train.steps, warmup=large.train.warmup,
            held_out=large.train.held_out, sample_every=large.train.sample_every,
            checkpoint_every=large.train.checkpoint_every,
        ),
        adapter=f"runs/{name}/train/adapter",
        card=4.0,
    )  # fmt: skip
