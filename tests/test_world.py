"""The drawn world: determinism, disjoint splits, words, drift, and what `dsd world draw` writes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from dsd.errors import UserError
from dsd_world.captions import panel_captions, sheet_caption, subject_phrases, vocabulary, write_captions
from dsd_world.draw import draw, draw_panels
from dsd_world.drawn_pairs import drawn_pairs
from dsd_world.export import draw_to_folder
from dsd_world.individuals import KINDS, drifted, sample_individuals, sample_scenes, strangers
from dsd_world.sheets import DRIFT_SHARE, draw_sheets, drift_decisions
from dsd_world.tokenizers import clip_tokenizer, t5_tokenizer

INDEX = torch.arange(96)


def test_an_individual_does_not_depend_on_its_batch():
    together, alone = sample_individuals("training", INDEX), sample_individuals("training", INDEX[17:18])
    assert together.row(17) == alone.row(0)


def test_splits_never_share_an_individual():
    hues = [sample_individuals(split, torch.arange(5000)).hue for split in ("training", "validation", "evaluation")]
    assert len(set(torch.cat(hues).tolist())) > 14_900


def test_a_panel_does_not_depend_on_its_batch():
    individuals, scenes = sample_individuals("training", INDEX), sample_scenes("training", INDEX)
    rows = torch.tensor([70, 3, 41])
    alone = draw_panels(individuals.take(rows), scenes.take(rows))
    assert torch.allclose(draw_panels(individuals, scenes)[rows], alone, atol=1e-5)


def test_every_kind_is_drawn_and_no_two_look_alike():
    first = sample_individuals("validation", torch.zeros(len(KINDS), dtype=torch.long))
    scenes = sample_scenes("validation", torch.zeros(len(KINDS), dtype=torch.long))
    pictures = draw_panels(dataclasses.replace(first, kind=torch.arange(len(KINDS))), scenes)
    distances = torch.cdist(pictures.flatten(1), pictures.flatten(1)) + 1e9 * torch.eye(len(KINDS))
    assert distances.min() > 3


def test_images_depth_and_light_stay_in_their_ranges():
    drawing = draw(sample_individuals("training", INDEX), sample_scenes("training", INDEX), size=48)
    assert drawing.image.shape == (96, 3, 48, 48) and drawing.image.abs().max() <= 1
    assert drawing.depth.min() >= 0 and drawing.depth.max() <= 1
    assert drawing.light.min() > 0 and drawing.light.max() < 2


def test_the_subject_is_nearer_than_the_place_and_lit_from_one_side():
    individuals, scenes = sample_individuals("training", INDEX), sample_scenes("training", INDEX)
    scenes = dataclasses.replace(
        scenes, position=torch.ones_like(scenes.position), light_azimuth=torch.zeros(96),
        light_strength=torch.full((96,), 0.35), lean=torch.zeros(96), shift_x=torch.zeros(96),
    )  # fmt: skip
    drawing = draw(individuals, scenes)
    assert (drawing.depth[:, 0, 38:44, 30:34] < drawing.depth[:, 0, :3, :3].amin()).float().mean() > 0.9
    right, left = drawing.light[..., 40:48, 36:44].mean(), drawing.light[..., 40:48, 20:28].mean()
    assert right > left + 0.05


def test_strangers_share_every_word_and_nothing_else():
    individuals = sample_individuals("training", INDEX)
    others = strangers(individuals, "training", INDEX)
    assert subject_phrases(individuals) == subject_phrases(others)
    assert (individuals.second_hue - others.second_hue).abs().mean() > 0.1
    assert torch.equal(individuals.words, others.words)


def test_drifted_individuals_keep_some_attributes_and_lose_others():
    individuals = sample_individuals("training", INDEX)
    others = drifted(individuals, "training", INDEX)
    kept = (individuals.width == others.width).float().mean()
    assert 0.2 < kept < 0.6


def test_about_three_sheets_in_ten_drift_and_the_first_panel_never_does():
    decisions = drift_decisions("training", torch.arange(4000), 4, DRIFT_SHARE)
    assert not decisions[:, 0].any()
    assert abs(decisions.any(1).float().mean() - DRIFT_SHARE) < 0.03


def test_sheets_are_their_panels_row_by_row():
    sheets = draw_sheets("training", INDEX[:3])
    panels = draw_panels(sheets.individuals, sheets.scenes)
    assert sheets.images.shape == (3, 3, 128, 128)
    assert torch.equal(sheets.images[1, :, :64, 64:], panels[5])
    assert torch.equal(sheets.images[1, :, 64:, :64], panels[6])
    assert draw_sheets("training", INDEX[:3], (1, 2)).images.shape == (3, 3, 64, 128)


def test_captions_are_made_of_the_vocabulary_and_fit_their_token_budget():
    individuals, scenes = (
        sample_individuals("training", torch.arange(500)),
        sample_scenes("training", torch.arange(500)),
    )
    captions, words = panel_captions(individuals, scenes), set(vocabulary()) | {"a"}
    assert {word for caption in captions for word in caption.split()} <= words
    longest = sheet_caption("red striped cat with a scarf", ["surprised in the middle in the desert"] * 4)
    t5, clip = t5_tokenizer(48), clip_tokenizer(48)
    assert max(len(ids) for ids in t5(captions).input_ids) <= 16
    assert max(len(ids) for ids in clip(captions).input_ids) <= 48
    assert len(t5(longest).input_ids) <= 48 and len(clip(longest).input_ids) <= 48


def test_tokenizers_take_words_that_the_world_never_says():
    text = "Vintage Poster, 20% off!"
    for tokenizer in (t5_tokenizer(48), clip_tokenizer(48)):
        assert len(tokenizer(text).input_ids) > 5


def test_tokenizers_are_the_same_in_every_process():
    code = "from dsd_world.tokenizers import clip_tokenizer as c; print(sorted(c(48).get_vocab().items()))"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout for _ in range(2)]
    assert runs[0] == runs[1] == (str(sorted(clip_tokenizer(48).get_vocab().items())) + "\n").encode()


def test_caption_files_have_the_layout_of_laion(tmp_path):
    write_captions(tmp_path / "captions.parquet", "training", 7)
    table = pq.read_table(tmp_path / "captions.parquet")
    assert table.column_names == ["URL", "TEXT"] and table.num_rows == 7


@pytest.mark.parametrize("sheets", [False, True])
def test_draw_to_folder_writes_pictures_and_all_that_is_known(tmp_path, sheets):
    draw_to_folder(tmp_path, count=3, split="validation", sheets=sheets, panels_each=2, maps=True)
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert len(lines) == (3 if sheets else 6)
    picture = Image.open(tmp_path / lines[0]["file_name"])
    assert picture.size == ((128, 128) if sheets else (64, 64))
    known = lines[0]["panels"][0] if sheets else lines[0]
    assert {"identity", "scene", "light"} <= set(known)


def test_draw_to_folder_refuses_an_empty_count(tmp_path):
    with pytest.raises(UserError, match="at least 1"):
        draw_to_folder(tmp_path, count=0, split="training")


def test_perfect_pairs_come_in_both_orders_with_the_targets_caption():
    pairs = drawn_pairs(6, first=10)
    assert [pair.grid for pair in pairs] == ["10", "10", "11", "11", "12", "12"]
    for one, other in zip(pairs[::2], pairs[1::2], strict=True):
        assert (one.reference, one.target) == (other.target, other.reference)
    who = sample_individuals("training", torch.arange(10, 13))
    scenes = sample_scenes("training", torch.tensor([20, 22, 24]))
    assert [pair.target_caption for pair in pairs[::2]] == panel_captions(who, scenes)
