"""The recipes are complete, and the paper's runs through the same code on a tiny random FLUX.1-dev."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch
from training_parts import simple_pairs

from dsd.config import from_json, to_json
from dsd.errors import UserError
from dsd.generate.two_frame import TwoFramePipeline
from dsd.recipes.recipe import Recipe
from dsd.recipes.registry import all_recipes, recipe
from dsd.sampling import Sampling
from dsd.train.trainer import train


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


def test_flux_dev_curates_at_the_size_that_it_trains_at():
    paper = recipe("flux-dev")
    assert paper.train.frame_size == (paper.curate.panel_size, paper.curate.panel_size)
    assert paper.curate.teacher == paper.train.base and paper.curate.templates == "default"


def test_the_recipe_of_the_paper_runs_on_a_tiny_flux_dev(tmp_path):
    config = replace(
        recipe("flux-dev").train,
        base=tiny.dev(),
        rank=4,
        steps=2,
        batch_size=4,
        gradient_accumulation=2,
        max_sequence_length=tiny.TEXT_TOKENS,
        frame_size=(32, 32),
        held_out=1,
        sample_every=2,
        sampling=Sampling(steps=2),
        checkpoint_every=2,
    )
    adapter = train(config, simple_pairs(), tmp_path / "run")
    pipeline = TwoFramePipeline.from_pretrained(tiny.dev(), adapter=adapter)
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("a cat", tiny.picture(), num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images
    assert drawn[0].size == (32, 32)
    assert pipeline.adapter is not None and pipeline.adapter.guidance == config.guidance
