"""FLUX.1-dev with the settings of Cai et al., Diffusion Self-Distillation (CVPR 2025, arXiv 2411.18616)."""

from __future__ import annotations

from dsd.curate.config import CurateConfig
from dsd.recipes.recipe import Recipe
from dsd.sampling import Sampling
from dsd.train.config import TrainConfig

BASE = "black-forest-labs/FLUX.1-dev"
PANEL = 512
"""The paper's canvas is 512 x 1024: two frames of 512 x 512. A 2x2 sheet is then 1024 x 1024, FLUX's own size."""


def flux_dev() -> Recipe:
    """Returns the paper's recipe: about 400 000 pairs, rank 512, batch 160, 100 000 steps at 1e-4 with AdamW.

    The paper's GPT-4o and Gemini-1.5 are named as OpenAI-compatible servers; any other one, local or not, takes their
    place with `--curate.chat` and `--curate.judge`. A sheet of which half the pairs survive gives six ordered pairs,
    so 100 000 captions leave room for sheets that are refused. What the paper leaves open is chosen here: warm-up,
    condition dropout (both guidances need it), the noise density, and how the batch is worked through.
    """
    return Recipe(
        summary="FLUX.1-dev with the paper's settings, on a cluster",
        curate=CurateConfig(
            captions="captions.parquet",
            teacher=BASE,
            teacher_batch=4,
            chat="openai:gpt-4o@https://api.openai.com/v1",
            judge="openai:gemini-1.5-pro@https://generativelanguage.googleapis.com/v1beta/openai#GEMINI_API_KEY",
            templates="default",
            chat_batch=16,
            panel_size=PANEL,
            steps=28,
            true_guidance=1.0,
            guidance=3.5,
            sheet_text_tokens=512,
            units=1000,
            unit_size=100,
        ),
        train=TrainConfig(
            base=BASE,
            rank=512,
            lora_targets="attention",
            steps=100_000,
            batch_size=160,
            gradient_accumulation=20,
            gradient_checkpointing=True,
            optimizer="adamw",
            learning_rate=1e-4,
            warmup=500,
            decay_from=1.0,
            reference_weight=1.0,
            ema_decay=0.0,
            guidance=3.5,
            max_sequence_length=512,
            frame_size=(PANEL, PANEL),
            held_out=64,
            sample_every=1000,
            sampling=Sampling(steps=28, guidance=3.5),
            checkpoint_every=1000,
            mixed_precision="bf16",
        ),
        adapter="runs/flux-dev/train/adapter",
    )
