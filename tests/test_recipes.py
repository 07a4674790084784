"""The recipes are complete, and the paper's runs through the same code on a tiny random FLUX.1-dev."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from training_parts import simple_pairs

from dsd.cli.main import main
from dsd.config import from_json, to_json
from dsd.curate.grids import Teacher
from dsd.data.records import GridPrompt, Model
from dsd.errors import UserError
from dsd.generate.two_frame import TwoFramePipeline
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import RECIPES, all_recipes, recipe
from dsd.train.trainer import train

TRAINING = Path(__file__).parents[1] / "docs" / "training.md"
IN_DOCS = (
    "memory: transformer", "memory: trained weights, gradients, optimizer", "memory: activations", "memory of a device",
    "memory to encode the cache, before", "time",
)  # fmt: skip
"""Rows of a plan that the table of small cards has."""


def test_an_unknown_recipe_gets_a_hint():
    with pytest.raises(UserError, match='did you mean "flux-dev"'):
        recipe("flux_dev")


@pytest.mark.parametrize("name", all_recipes())
def test_a_recipe_round_trips_through_json(name):
    assert from_json(Recipe, to_json(recipe(name))) == recipe(name)


def test_flux_dev_has_the_settings_of_the_paper():
    config = all_recipes()["flux-dev"].train
    assert config.base == "black-forest-labs/FLUX.1-dev" and config.frame_size == (512, 512)
    assert (config.rank, config.steps, config.batch_size, config.learning_rate) == (512, 100_000, 160, 1e-4)
    assert config.optimizer == "adamw" and config.lora_targets == "attention"


NOBODY = Model(name="", revision="")
TWINS = {
    "flux-dev": tiny.dev, "flux-schnell": tiny.schnell, "sd35-medium": tiny.sd3, "flux2-klein": tiny.flux2,
    "flux-dev-lora-24gb": tiny.dev, "flux-schnell-lora": tiny.schnell, "sd35-medium-lora": tiny.sd3,
}  # fmt: skip
"""A tiny random member of the family of each recipe's model."""


@pytest.mark.parametrize("name", TWINS)
def test_a_recipe_curates_at_the_size_that_it_trains_at(name: str):
    found = recipe(name)
    assert found.train.frame_size == (found.curate.panel_size, found.curate.panel_size)
    assert found.curate.teacher == found.train.base and found.curate.templates == "default"
    assert found.adapter == f"runs/{name}/train/adapter"
    assert set(TWINS) == set(RECIPES)


@pytest.mark.parametrize("name", TWINS)
def test_a_published_model_s_recipe_runs_on_its_tiny_twin(name: str, tmp_path):
    base = TWINS[name]()
    config = replace(
        recipe(name).train,
        base=base,
        rank=4,
        steps=2,
        batch_size=4,
        gradient_accumulation=2,
        max_sequence_length=tiny.TEXT_TOKENS,
        frame_size=(32, 32),
        held_out=1,
        sample_every=2,
        sampling=replace(recipe(name).train.sampling, steps=2),
        checkpoint_every=2,
        identity=None,
        agreement=None,
    )
    adapter = train(config, simple_pairs(), tmp_path / "run")
    pipeline = TwoFramePipeline.from_pretrained(base, adapter=adapter)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a cat", tiny.picture(), generator=torch.Generator().manual_seed(0)).images
    assert drawn[0].size == (32, 32)
    assert pipeline.adapter is not None and pipeline.adapter.sampling == config.sampling
    assert pipeline.adapter.guidance == (config.guidance if name.startswith("flux-dev") else None)


@pytest.mark.parametrize("name", ["flux-dev-lora-24gb", "flux-schnell-lora", "sd35-medium-lora", "flux2-klein"])
def test_a_plan_is_made_for_every_model_from_what_is_known_of_it_and_says_that_it_fits_its_card(name: str, capsys):
    assert main(["plan", name]) == 0
    said = capsys.readouterr().out
    assert "memory of a device" in said and "M parameters" in said
    assert ("fits a card of" in said) == (recipe(name).card is not None)
    if (card := recipe(name).card) is not None:
        assert re.search(rf"fits a card of {card:g} GB +yes, .* left", said)
        rows = dict(line.split("  ", 1) for line in said.splitlines() if "  " in line)
        row = " | ".join(rows[name].strip().removesuffix(" on 1 device(s)") for name in IN_DOCS)
        assert f"| {row} at {recipe(name).tflops:g} TFLOP/s |" in TRAINING.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TWINS)
def test_a_recipe_s_sheets_are_drawn_by_its_family_s_teacher(name: str):
    config = replace(
        recipe(name).curate, teacher=TWINS[name](), panel_size=16, steps=1, sheet_text_tokens=8, teacher_batch=2
    )
    prompt = GridPrompt(caption="c", text="a cat in four scenes", subject="cat", scenes=("a",) * 4, writer=NOBODY)
    (grid,) = Teacher(config).draw([prompt], seed=0)
    assert grid.image.size == (32, 32)
