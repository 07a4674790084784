"""Recipes for published models: the paper's with FLUX.1-dev (Cai et al., CVPR 2025, arXiv 2411.18616), and the same for
others.

The paper's GPT-4o and Gemini-1.5 are named as OpenAI-compatible servers; any other one, local or not, takes their place
with `--curate.chat` and `--curate.judge`. A sheet of which half the pairs survive gives six ordered pairs, so 100 000
captions leave room for sheets that are refused. What the paper leaves open is chosen here: warm-up, condition dropout
(both guidances need it), the noise density, how the batch is worked through, and the encoders of DreamBooth's and
DreamBench++'s evaluations.
"""

from __future__ import annotations

from dataclasses import replace

from dsd.curate.config import CurateConfig
from dsd.evaluate.config import EvaluateConfig
from dsd.recipes.recipe import Recipe
from dsd.sampling import Sampling
from dsd.train.config import TrainConfig

PANEL = 512
"""The paper's canvas is 512 x 1024: two frames of 512 x 512. A 2x2 sheet is then 1024 x 1024, the models' own size."""


def flux_dev() -> Recipe:
    """The paper's recipe: about 400 000 pairs, rank 512, batch 160, 100 000 steps at 1e-4 with AdamW."""
    base = "black-forest-labs/FLUX.1-dev"
    return Recipe(
        summary="FLUX.1-dev with the paper's settings, on a cluster",
        curate=CurateConfig(
            captions="captions.parquet",
            teacher=base,
            teacher_batch=4,
            chat="openai:gpt-4o@https://api.openai.com/v1",
            judge="openai:gemini-1.5-pro@https://generativelanguage.googleapis.com/v1beta/openai#GEMINI_API_KEY",
            templates="default",
            refuse_repeated=True,
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
            base=base,
            rank=512,
            lora_targets="attention",
            steps=100_000,
            batch_size=160,
            gradient_accumulation="auto",
            gradient_checkpointing="auto",
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
            sampled=32,
            identity="facebook/dinov2-base",
            agreement="openai/clip-vit-base-patch32",
            sampling=Sampling(steps=28, guidance=3.5),
            checkpoint_every=1000,
            mixed_precision="bf16",
        ),
        evaluate=EvaluateConfig(
            identity="facebook/dinov2-base",
            agreement="openai/clip-vit-base-patch32",
            likeness=("dino_i=facebook/dino-vits16",),
            vision="openai/clip-vit-large-patch14",
        ),
        adapter="runs/flux-dev/train/adapter",
    )


def flux_schnell() -> Recipe:
    """FLUX.1-schnell, whose licence lets everyone build on it: a teacher of four steps.

    It has no embedded guidance, and training by flow matching takes its few steps from it, so the student draws in as
    many as the others, with true guidance.
    """
    base = "black-forest-labs/FLUX.1-schnell"
    return _with(
        "FLUX.1-schnell, trained as the paper trains FLUX.1-dev", "flux-schnell", base, teacher_steps=4,
        text_tokens=256, sampling=Sampling(steps=28, text_scale=3.0, image_scale=1.5),
    )  # fmt: skip


def sd35_medium() -> Recipe:
    """Stable Diffusion 3.5 medium, a fifth of FLUX.1-dev's size; true guidance takes the place of the embedded one."""
    base = "stabilityai/stable-diffusion-3.5-medium"
    return _with(
        "Stable Diffusion 3.5 medium, trained as the paper trains FLUX.1-dev", "sd35-medium", base, teacher_steps=40,
        true_guidance=4.5, text_tokens=256, sampling=Sampling(steps=40, text_scale=4.5, image_scale=1.5),
    )  # fmt: skip


def flux2_klein() -> Recipe:
    """FLUX.2 klein 4B, not distilled and free to build on; frames stand in sequence, as its own references do."""
    base = "black-forest-labs/FLUX.2-klein-base-4B"
    return _with(
        "FLUX.2 klein 4B, trained as the paper trains FLUX.1-dev", "flux2-klein", base, teacher_steps=50,
        true_guidance=4.0, text_tokens=512, sampling=Sampling(steps=50, text_scale=4.0, image_scale=1.5),
    )  # fmt: skip


def _with(
    summary: str,
    name: str,
    base: str,
    *,
    teacher_steps: int,
    text_tokens: int,
    sampling: Sampling,
    true_guidance: float = 1.0,
) -> Recipe:
    """The paper's recipe with another model; its guidance, steps and text length are those usual with that model."""
    paper = flux_dev()
    return Recipe(
        summary=summary,
        curate=replace(
            paper.curate, teacher=base, steps=teacher_steps, true_guidance=true_guidance, sheet_text_tokens=text_tokens
        ),
        train=replace(paper.train, base=base, max_sequence_length=text_tokens, sampling=sampling),
        evaluate=replace(paper.evaluate, teacher_guidance=true_guidance),
        adapter=f"runs/{name}/train/adapter",
    )
