"""Claims about tiny-vlm: its words cost few tokens, its folder is a stock chat model, its training resumes exactly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from dsd.images import to_pil
from dsd.models import resolve
from dsd_world.captions import panel_captions, subject_phrases
from dsd_world.details import HUES, PARTS, detail_phrases, differences, hue_bin, measures
from dsd_world.draw import draw_panels
from dsd_world.examined_pairs import equal_word_pairs
from dsd_world.individuals import PLACES, color_word, drifted, sample_individuals, sample_scenes, strangers
from dsd_world.models import judge, redrawn
from dsd_world.models.vlm import VlmTask, messages
from dsd_world.models.vlm_captions import PANELS, inspiration
from dsd_world.models.vlm_data import FAMILY, IGNORED, Writer, description, families, verdicts
from dsd_world.models.vlm_model import TOKENS_PER_IMAGE, new_processor
from dsd_world.words import told_words


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> VlmTask:
    return VlmTask(tmp_path_factory.mktemp("vlm"), steps=100)


@pytest.fixture(scope="module")
def people():
    index = torch.arange(400)
    return sample_individuals("validation", index), sample_scenes("validation", index)


def test_three_hues_share_a_colour_word() -> None:
    hue = torch.linspace(0, 0.9999, 1000)
    assert torch.equal(hue_bin(hue) // 3, color_word(hue))
    assert len(set(HUES)) == 24


def test_details_tell_strangers_with_the_same_caption_apart(people) -> None:
    who, _ = people
    other = strangers(who, "validation", torch.arange(len(who)))
    assert subject_phrases(who) == subject_phrases(other)
    different = [a != b for a, b in zip(detail_phrases(who), detail_phrases(other), strict=True)]
    assert sum(different) / len(different) > 0.99


def test_measures_are_of_unit_scale_and_weighted_where_visible(people) -> None:
    values, weights = measures(people[0])
    assert values.shape == weights.shape
    assert values.abs().max() <= 1.0001
    assert set(weights.unique().tolist()) == {0.0, 1.0}


def test_replies_survive_the_tokenizer_in_few_tokens(people) -> None:
    who, at = people
    tokenizer = new_processor().tokenizer
    other = drifted(who, "validation", torch.arange(len(who)))
    replies = [*description(who, at), *verdicts(who, other, [False] * len(who))]
    for reply in replies:
        ids = tokenizer(reply, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == reply
        assert len(ids) <= 72


@pytest.mark.parametrize(
    "text", ["", "Étoile N°5 — 'quoted' \"text\"", "北京 \U0001f600", "a RED cat, with\nnewlines\t"]
)
def test_any_text_survives_the_tokenizer_in_lower_case(text: str) -> None:
    tokenizer = new_processor().tokenizer
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text.lower()


def test_grid_prompts_follow_what_the_caption_says() -> None:
    rng = Random(0)
    for _ in range(300):
        example = inspiration(rng)
        assert example.caption.strip()
        assert len(example.scenes) == PANELS
        assert len({next(p for p in PLACES if p in scene) for scene in example.scenes}) == PANELS
        if example.caption.startswith("a ") and example.caption.endswith(example.scenes[0]):
            assert example.caption == f"a {example.subject} {example.scenes[0]}"


def test_families_hold_two_individuals() -> None:
    who, _ = families("training", torch.arange(200))
    hue = who.hue.view(-1, FAMILY)
    gap = ((hue - hue.roll(-1, 1) + 0.5) % 1 - 0.5).abs()
    assert gap[:, 0].max() < 0.03
    assert gap[:, 2].max() < 0.03
    differ = [a != b for a, b in zip(detail_phrases(who)[::FAMILY], detail_phrases(who)[2::FAMILY], strict=True)]
    assert sum(differ) > 190


def test_half_of_the_test_pairs_are_the_same_individual() -> None:
    pairs = equal_word_pairs("evaluation", torch.arange(20))
    assert pairs.same == [True, False] * 10
    assert pairs.first.shape == pairs.second.shape == (20, 3, 64, 64)


def test_training_rows_are_what_the_processor_makes_of_the_messages(people) -> None:
    processor = new_processor()
    writer = Writer(processor)
    pictures = to_pil(draw_panels(people[0].take(torch.arange(2)), people[1].take(torch.arange(2))))
    for job, count in (("grid", 0), ("describe", 1), ("judge", 2), ("judge_direct", 2)):
        said = messages(job, "a red cat")
        seen = iter(pictures)
        for part in said[0]["content"]:
            if part["type"] == "image":
                part["image"] = next(seen)
        inputs = processor.apply_chat_template(
            said, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        rendered = processor.tokenizer(writer.prompt(messages(job, "a red cat")), add_special_tokens=False)["input_ids"]
        assert inputs["input_ids"][0].tolist() == rendered
        assert rendered.count(processor.image_token_id) == count * TOKENS_PER_IMAGE


def test_only_the_reply_is_learnt() -> None:
    writer = Writer(new_processor())
    reply = json.dumps({"same": True})
    talk = writer.write([writer.prompt(messages("judge_direct"))], [reply], torch.tensor([[0, 1]]))
    learnt = talk.labels[talk.labels != IGNORED]
    assert writer.tokenizer.decode(learnt) == reply + writer.tokenizer.eos_token
    assert torch.isin(learnt, writer.verdict_ids).sum() == 1


def test_the_folder_is_a_stock_chat_model(
    task: VlmTask, people, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dsd_world.models.vlm._CALIBRATION_PAIRS", 8)
    task.export(tmp_path, "# card\n")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    size = sum(f.stat().st_size for f in tmp_path.iterdir())
    assert size < 6 * 2**20
    pictures = to_pil(draw_panels(people[0].take(torch.arange(2)), people[1].take(torch.arange(2))))
    talks = [
        [{"role": "user", "content": [*({"type": "image", "image": p} for p in shown), {"type": "text", "text": text}]}]
        for shown, text in ((pictures, "judge"), (pictures[:1], "describe"), ([], "grid prompt: a blue cat"))
    ]

    def continued(some: list) -> list[list[int]]:
        inputs = processor.apply_chat_template(
            some,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        return model.generate(**inputs, max_new_tokens=6)[:, inputs["input_ids"].shape[1] :].tolist()

    together = continued(talks)
    assert together == [row for talk in talks for row in continued([talk])]


def test_own_words_replace_details_and_keep_the_frame(task: VlmTask) -> None:
    who, at = families("training", torch.arange(1))
    writer = task.writer
    pairs = torch.tensor([[0, 1], [0, 2]])
    replies = verdicts(who.take(pairs[:, 0]), who.take(pairs[:, 1]), [True, False])
    talk = writer.write([writer.prompt(messages("judge"))] * 2, replies, pairs)
    features = task.model.model.multi_modal_projector(task._tower(draw_panels(who, at)))
    own = task._in_own_words(talk, features, step=0)
    assert not torch.equal(own.ids, talk.ids)
    for row in range(2):
        again = writer.said_before(talk.labels[row])
        others = [place for place in range(talk.labels.shape[1]) if place not in again]
        assert torch.equal(own.labels[row, others], talk.labels[row, others]), "what is true stays true"
        for place, source in again.items():
            assert own.labels[row, place] == own.ids[row, place + 1] == own.ids[row, source + 1], "and is said alike"
    framed = torch.isin(talk.ids, writer.scaffolding_ids) | (talk.ids == writer.tokenizer.pad_token_id)
    assert torch.equal(own.ids[framed], talk.ids[framed])


@pytest.mark.parametrize("step", [0, 60, 63, 70, 75])
def test_every_stage_takes_a_step(task: VlmTask, step: int) -> None:
    losses = task.train_step(step)
    assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values())


def test_resumed_training_has_the_same_bits(tmp_path: Path) -> None:
    straight = VlmTask(tmp_path, steps=6)
    for step in range(6):
        straight.train_step(step)
    broken = VlmTask(tmp_path, steps=6)
    for step in range(3):
        broken.train_step(step)
    saved = {name: tensor.clone() for name, tensor in broken.tensors().items()}
    resumed = VlmTask(tmp_path, steps=6, seed=0)
    resumed.restore(saved)
    for step in range(3, 6):
        resumed.train_step(step)
    assert straight.tensors().keys() == resumed.tensors().keys()
    assert all(torch.equal(value, resumed.tensors()[name]) for name, value in straight.tensors().items())


def test_a_trained_judge_describes_again_before_it_judges_on_at_a_lower_rate(tmp_path: Path) -> None:
    further = VlmTask(tmp_path, steps=640, seed=1, start=Path(resolve("embedded:tiny-vlm")))
    stages = [further.train_step(step).keys() for step in (0, 320)]
    assert stages[0] == {"sight", "compare", "decide", "repeat", "describe"}
    assert stages[1] > {"sight", "verdict", "direct", "comparison"}
    fresh = VlmTask(tmp_path, steps=400)
    rates = [fresh._rate(step) for step in (150, 300, 399)]
    assert rates[0] == 1 and rates[0] > rates[1] > rates[2] > 0
    assert max(further._rate(step) for step in range(320, 640)) < rates[0] / 2
    other = VlmTask(tmp_path, steps=640, seed=2, start=Path(resolve("embedded:tiny-vlm")))
    seen = [set(task._panels(63)[0].hue.tolist()) for task in (fresh, further, other)]
    assert not seen[0] & seen[1] and not seen[1] & seen[2] and not seen[0] & seen[2]


def test_words_told_are_counted_by_their_kind() -> None:
    true = ["a red striped cat with a hat smiling on the left at sea", "a blue plain mug in the middle at night"]
    told = ["a red plain cat sad on the left at sea", "a blue plain lamp in the middle in the room"]
    bird = ["a red plain bird sad on the left at sea"]
    assert told_words(bird, bird)["species"] == [1.0] and "mood" not in told_words(bird, bird)
    found = told_words(told, true)
    assert found == {
        "place": [1.0, 0.0], "position": [1.0, 1.0], "species": [1.0], "object": [0.0], "colour": [1.0, 1.0],
        "pattern": [0.0, 1.0], "accessory": [0.0], "mood": [0.0],
    }  # fmt: skip


def test_a_judge_learns_from_what_the_teacher_draws_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "_FAMILIES", 5)
    monkeypatch.setattr(judge, "_HELD_FAMILIES", 2)
    task = judge.build(tmp_path, steps=64)
    assert task.redrawn is not None
    who, at, images = task.redrawn.take(torch.arange(5 * FAMILY))
    off = (images - draw_panels(who, at)).abs().mean((1, 2, 3))
    assert off.min() > 0.005, "not the drawing itself"
    assert off.mean() < (images - draw_panels(who, at).roll(FAMILY, 0)).abs().mean() / 2, "and no other one's"
    again, first = (task._panels(step)[0].hue.tolist() for step in (3, 0))
    assert set(again) <= set(who.hue.tolist()) and not set(first) & set(who.hue.tolist())
    assert {"verdict", "direct", "comparison"} <= task.train_step(52).keys(), "of what was drawn again"
    pairs = task.held.pairs(2)
    assert pairs.same == [True, False, True, False]
    often = task.held.pairs_as_on_sheets()
    assert often.same == [True] * 4 + [False]
    assert torch.equal(often.first[::2], pairs.first[[0, 2, 1]]) and torch.equal(often.second[0], pairs.second[0])
    assert torch.equal(pairs.first[0], pairs.first[1]) and not torch.equal(pairs.second[0], pairs.second[1])
    monkeypatch.setattr(redrawn, "_drawn_again", None)
    assert torch.equal(judge.build(tmp_path, steps=64).redrawn.images, task.redrawn.images), "it is kept"  # pyright: ignore[reportOptionalMemberAccess]


def test_captions_of_the_truth_are_the_panel_captions(people) -> None:
    who, at = people
    assert [json.loads(d)["caption"] for d in description(who, at)] == panel_captions(who, at)


def test_comparisons_say_every_word_of_the_details_again(task: VlmTask, people) -> None:
    who, _ = people
    writer, other = task.writer, sample_individuals("validation", torch.arange(len(who)) + 1000)
    replies = verdicts(who, other, [False] * len(who))
    talk = writer.write(
        [writer.prompt(messages("judge"))] * len(who), replies, torch.empty(len(who), 0, dtype=torch.long)
    )
    shape = re.compile("; ".join(rf"{part}(,? [^:;]+): (?:same|other)" for part in PARTS))
    for row, reply in enumerate(replies):
        again = writer.said_before(talk.labels[row])
        assert all(talk.labels[row, place] == talk.labels[row, source] for place, source in again.items())
        told = json.loads(reply)
        words = sum(len(told[k].replace(" and", "").split()) - 1 for k in ("first_details", "second_details"))
        pieces = shape.fullmatch(told["comparison"])
        assert pieces is not None
        assert sum(len(p.replace(" nothing", "").replace(",", "").split()) for p in pieces.groups()) == words
        assert len(set(again.values())) == len(again)


def test_mixed_strangers_differ_in_some_parts_and_agree_in_others() -> None:
    who, _ = families("training", torch.arange(2000))
    index = torch.arange(0, len(who.hue), FAMILY)
    others = differences(who.take(index), who.take(index + 2)).sum(1)
    assert ((others > 0) & (others < 6)).float().mean() > 0.5


def test_a_scrambled_comparison_says_nothing_of_the_next(task: VlmTask) -> None:
    who, _ = families("training", torch.arange(64))
    replies = verdicts(who.take(torch.arange(64)), who.take(torch.arange(64)), [True] * 64)
    writer = task.writer
    talk = writer.write([writer.prompt(messages("judge"))] * 64, replies, torch.empty(64, 0, dtype=torch.long))
    scrambled = writer.scrambled(talk.ids, torch.Generator().manual_seed(0))
    changed = scrambled != talk.ids
    assert torch.equal(writer.opposite[scrambled[changed]], talk.ids[changed])
    assert 0.4 < changed.sum().item() / (64 * 7) < 0.6
