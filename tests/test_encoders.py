"""The encoders that measure: their recipes learn and resume, and the shipped ones are as good as their cards say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPProcessor, SiglipConfig, SiglipModel

from dsd.encoders import ImageEncoder, PictureTextEncoder
from dsd.images import to_pil
from dsd.models import embedded_folder
from dsd_world.benchmark import DrawnBenchmark, distractor_phrases
from dsd_world.captions import panel_captions, scene_phrases, subject_phrases
from dsd_world.draw import draw_panels
from dsd_world.individuals import sample_individuals, sample_scenes, strangers
from dsd_world.models import clip, dino
from dsd_world.models.soften import blurred, softened
from dsd_world.tokenizers import t5_tokenizer
from dsd_world.training import Recipe

RECIPES = {"dino": dino, "clip": clip}


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    for recipe in (dino, clip):
        monkeypatch.setattr(recipe, "BATCH", 2)
    monkeypatch.setattr(dino, "VALIDATION_GROUPS", 4)
    monkeypatch.setattr(clip, "VALIDATION_SUBJECTS", 4)


def same_tensors(one: Recipe, other: Recipe) -> bool:
    first, second = one.tensors(), other.tensors()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", RECIPES)
def test_a_resumed_recipe_ends_with_the_same_bits(name: str, tmp_path: Path):
    whole, begun, resumed = (RECIPES[name].build(tmp_path, steps=4) for _ in range(3))
    for step in range(4):
        whole.train_step(step)
    for step in range(2):
        begun.train_step(step)
    begun.evaluate(2)
    resumed.restore({key: value.clone() for key, value in begun.tensors().items()})
    for step in range(2, 4):
        resumed.train_step(step)
    assert same_tensors(whole, resumed)


def test_an_exported_identity_encoder_is_a_plain_transformers_folder(tmp_path: Path):
    task = dino.build(tmp_path, steps=1)
    task.train_step(0)
    task.export(tmp_path / "model", "card")
    encoder = ImageEncoder(str(tmp_path / "model"))
    index = torch.arange(3)
    panels = draw_panels(sample_individuals("validation", index), sample_scenes("validation", index))
    task.model.eval()
    with torch.no_grad():
        direct = dino.pooled(task.model, panels)
    assert torch.allclose(encoder.pooled(to_pil(panels)), direct, atol=0.02)
    assert sum(p.numel() for p in task.model.parameters()) < 1.5e6


def test_an_exported_picture_text_pair_is_a_plain_transformers_folder(tmp_path: Path):
    task = clip.build(tmp_path, steps=1)
    task.train_step(0)
    task.export(tmp_path / "model", "card")
    encoder = PictureTextEncoder(str(tmp_path / "model"))
    index = torch.arange(3)
    who, scenes = sample_individuals("validation", index), sample_scenes("validation", index)
    panels, captions = draw_panels(who, scenes), panel_captions(who, scenes)
    task.model.eval()
    with torch.no_grad():
        pictures, sentences = torch.nn.functional.normalize(task.images(panels), dim=1), task.texts(captions)
    assert torch.allclose(encoder.pictures(to_pil(panels)), pictures, atol=0.02)
    assert torch.allclose(encoder.sentences(captions), sentences, atol=0.02)
    assert sum(p.numel() for p in task.model.parameters()) < 1.5e6


def test_a_batch_of_captions_holds_distractors_that_differ_in_one_word():
    subjects = torch.arange(5)
    scenes = clip.combined_scenes("training", subjects)
    words = torch.stack([scenes.place, scenes.position, scenes.mood], 1).view(5, 9, 3)
    differing = (words[:, :, None] != words[:, None]).sum(-1)
    assert ((differing == 1).sum(-1) >= 3).all()


def test_blur_keeps_flat_pictures_and_no_blur_keeps_all():
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    assert torch.allclose(blurred(images, torch.zeros(2)), images, atol=1e-5)
    flat = torch.full((1, 3, 16, 16), 0.3)
    assert torch.allclose(blurred(flat, torch.ones(1)), flat, atol=1e-5)
    assert blurred(images, torch.ones(2)).var() < images.var()
    assert softened(images, torch.Generator().manual_seed(0)).abs().max() <= 1


def shipped(name: str) -> str:
    if not embedded_folder(name).is_dir():
        pytest.skip(f"the weights of {name} are not in this checkout")
    return f"embedded:{name}"


def test_the_shipped_identity_encoder_tells_individuals_of_one_caption_apart():
    encoder = ImageEncoder(shipped("tiny-dino"))
    index = torch.arange(48)
    who = sample_individuals("evaluation", index)
    first, second, third = (sample_scenes("evaluation", index * 3 + k) for k in range(3))
    reference = encoder.pooled(to_pil(draw_panels(who, first)))
    true = (reference * encoder.pooled(to_pil(draw_panels(who, second)))).sum(1)
    others = draw_panels(strangers(who, "evaluation", index), third)
    stranger = (reference * encoder.pooled(to_pil(others))).sum(1)
    assert dino.auc(true, stranger) > 0.97


def test_the_shipped_pair_finds_the_right_scene_among_distractors():
    encoder = PictureTextEncoder(shipped("tiny-clip"))
    index = torch.arange(48)
    who, scenes = sample_individuals("evaluation", index), sample_scenes("evaluation", index)
    subject, right = subject_phrases(who), scene_phrases(who, scenes)
    options = [(right[n], *distractor_phrases(who, scenes, n)) for n in range(48)]
    sentences = encoder.sentences([f"a {subject[n]} {scene}" for n in range(48) for scene in options[n]])
    scores = torch.einsum("nd,nkd->nk", encoder.pictures(to_pil(draw_panels(who, scenes))), sentences.view(48, 8, -1))
    assert (scores.argmax(1) == 0).float().mean() > 0.85


def test_evaluation_individuals_are_in_no_other_split():
    index = torch.arange(64)
    splits = ("evaluation", "training", "validation")
    hues = [DrawnBenchmark(split=split, subjects=64).individuals().hue for split in splits]
    assert torch.equal(hues[0], sample_individuals("evaluation", index).hue)
    several = [set(of_split.tolist()) for of_split in hues]
    assert all(len(one) > 60 for one in several) and not several[0] & (several[1] | several[2])


def test_a_siglip_measures_a_sentence_by_itself(tmp_path: Path):
    """It reads the last place of a sentence, and would read another one beside a longer sentence."""
    tokenizer = t5_tokenizer(16)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 16}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = SiglipModel(
        SiglipConfig(text_config=text | size, vision_config=size | {"image_size": 32, "patch_size": 16})
    )
    model.save_pretrained(tmp_path)
    CLIPProcessor(
        CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False), tokenizer
    ).save_pretrained(tmp_path)
    encoder = PictureTextEncoder(str(tmp_path))
    alone = encoder.sentences(["a red cat"])
    beside = encoder.sentences(["a red cat", "a blue striped mug smiling on the left at the beach"])
    assert torch.allclose(alone[0], beside[0], atol=1e-5) and not torch.allclose(beside[0], beside[1], atol=1e-3)
    assert encoder.pictures([Image.new("RGB", (64, 64))]).shape == alone.shape
